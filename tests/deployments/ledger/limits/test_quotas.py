from datetime import UTC, datetime

from deployments.ledger.limits.quotas import QuotaUsage, day_of, month_of

DAY_S = 86_400
NOON_S = datetime(2025, 6, 15, 12, tzinfo=UTC).timestamp()


def test_days_begin_at_midnight_utc():
    midnight_s = NOON_S + DAY_S / 2

    assert day_of(midnight_s) == day_of(midnight_s - 1) + 1


def test_month_numbers_grow_by_one_over_new_year():
    december, january = (datetime(2025, 12, 31, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    days = [day_of(moment.timestamp()) for moment in (december, january)]

    assert month_of(days[1]) == month_of(days[0]) + 1


def test_usage_is_added_to_its_day_and_month():
    quotas = QuotaUsage()
    quotas.replace({"k": (5, 50)}, NOON_S)
    quotas.add("k", NOON_S, 3, NOON_S)
    quotas.add("k", NOON_S - DAY_S, 2, NOON_S)

    assert quotas.of("k", NOON_S) == (8, 55)
    assert quotas.of("k", NOON_S + DAY_S) == (0, 55)
    assert quotas.of("other", NOON_S) == (0, 0)


def test_usage_of_neighbouring_days_is_kept_and_of_older_ones_deleted():
    quotas = QuotaUsage()
    quotas.add("k", NOON_S, 1, NOON_S)
    quotas.add("k", NOON_S + DAY_S, 1, NOON_S + DAY_S)
    neighbour = quotas.of("k", NOON_S)
    quotas.add("k", NOON_S + 100 * DAY_S, 1, NOON_S + 100 * DAY_S)

    assert neighbour == (1, 2)
    assert quotas.of("k", NOON_S) == (0, 0)
