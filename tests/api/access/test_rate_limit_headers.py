import pytest

from api.access.rate_limit_headers import to_error, to_headers
from api.errors import InsufficientQuotaError, RateLimitError
from api.ports.rate_limits import LimitExceeded, LimitName, RateLimitStatus, Window

STATUS = RateLimitStatus(requests=Window(10, 0, 6.0), tokens=Window(40_000, 39_000, 90.5))


def exceeded(
    limit_name: LimitName, retry_after_s: float | None, *, requested: int = 1
) -> LimitExceeded:
    return LimitExceeded(limit_name, 10, 10, requested, retry_after_s, STATUS)


def test_headers_have_openai_names_and_formats():
    assert to_headers(STATUS) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "6s",
        "x-ratelimit-limit-tokens": "40000",
        "x-ratelimit-remaining-tokens": "39000",
        "x-ratelimit-reset-tokens": "1m30.5s",
    }


def test_key_without_limits_gets_no_headers():
    assert to_headers(RateLimitStatus()) == {}


@pytest.mark.parametrize(
    ("reset_s", "duration"),
    [
        (0.0, "0s"),
        (0.000_01, "1ms"),
        (0.012, "12ms"),
        (0.0121, "13ms"),
        (0.9999, "1s"),
        (1.0, "1s"),
        (1.5, "1.5s"),
        (59.123, "59.123s"),
        (59.9999, "1m0s"),
        (360.0, "6m0s"),
        (3661.0, "61m1s"),
    ],
)
def test_reset_is_formatted_as_openai_durations(reset_s: float, duration: str):
    headers = to_headers(RateLimitStatus(tokens=Window(1, 0, reset_s)))

    assert headers["x-ratelimit-reset-tokens"] == duration


def test_rate_limit_error_says_when_to_retry():
    error = to_error(exceeded("requests", 6.0))

    assert type(error) is RateLimitError
    assert error.message == (
        "Rate limit reached for requests per minute: limit 10, used 10, requested 1. "
        "Please try again in 6s."
    )
    assert error.headers() == {
        **to_headers(STATUS),
        "retry-after": "6",
        "retry-after-ms": "6000",
    }


@pytest.mark.parametrize(("retry_after_s", "ms"), [(0.0, 1), (0.0001, 1), (1.2341, 1235)])
def test_retry_after_is_rounded_up(retry_after_s: float, ms: int):
    assert to_error(exceeded("tokens", retry_after_s)).retry_after_ms == ms


@pytest.mark.parametrize(
    ("limit_name", "title"),
    [
        ("requests", "requests per minute"),
        ("tokens", "tokens per minute"),
        ("images", "images per minute"),
        ("concurrent", "concurrent requests"),
    ],
)
def test_message_names_the_limit(limit_name: LimitName, title: str):
    assert f"reached for {title}:" in to_error(exceeded(limit_name, 1.0)).message


def test_request_larger_than_the_limit_must_not_be_retried():
    error = to_error(exceeded("tokens", None, requested=11))

    assert type(error) is RateLimitError
    assert error.message == (
        "Request too large for tokens per minute: limit 10, requested 11. "
        "It must be made smaller to be served."
    )
    assert error.headers() == {**to_headers(STATUS), "x-should-retry": "false"}


@pytest.mark.parametrize(
    ("limit_name", "title", "renewal"),
    [
        ("day", "tokens per day", "at 00:00 UTC"),
        ("month", "tokens per month", "on the first of the month at 00:00 UTC"),
    ],
)
def test_used_up_quota_raises_insufficient_quota(limit_name: LimitName, title: str, renewal: str):
    error = to_error(exceeded(limit_name, None))

    assert type(error) is InsufficientQuotaError
    assert error.message == (
        f"You exceeded your current quota of {title}: limit 10, used 10, requested 1. "
        f"It is renewed {renewal}."
    )
    assert error.headers() == {**to_headers(STATUS), "x-should-retry": "false"}
