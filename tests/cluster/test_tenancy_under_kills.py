"""Three ingress replicas and eight keys under load for 90 s, while replicas are killed.

No limit is ever exceeded, no reservation leaks, and the usage table is what the clients saw. The
fleet is that of `test_tenancy.py`, which comes before.
"""

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable

import httpx
import pytest

from tests.helpers.load import ClientRequest, Load
from tests.helpers.service import Service, is_at_rest, wait_until
from tests.helpers.tenants import database, make_key

pytestmark = pytest.mark.cluster

DURATION_S = 90
CLIENTS_PER_KEY = 4
WINDOW_S = 60
SLACK_S = 0.5
"""How much later than the service a client may notice the end of its response."""

LIMITS = {
    "free": {},
    "requests": {"rpm": 40},
    "tokens": {"tpm": 1500},
    "concurrency": {"concurrency": 2},
    "both": {"rpm": 50, "tpm": 2000},
    "daily": {"tokens-per-day": 2500},
    "low-class": {"rpm": 60, "concurrency": 3, "priority": "low"},
    "all": {"rpm": 60, "tpm": 3000, "concurrency": 3, "tokens-per-month": 6000},
}
VICTIMS = ["ingress", "echo", "ledger"]


class Chaos:
    """Kills one replica after the other, and records when."""

    def __init__(self, service: Service, seed: int):
        self.service = service
        self.chance = random.Random(seed)
        self.killed: list[tuple[float, str]] = []

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self.chance.uniform(4, 8))
            victim = VICTIMS[len(self.killed) % len(VICTIMS)]
            pids = (await asyncio.to_thread(self.service.replica_pids)).get(victim)
            if pids:
                os.kill(self.chance.choice(pids), signal.SIGKILL)
                self.killed.append((time.monotonic(), victim))


@pytest.mark.timeout(DURATION_S + 240)
async def test_limits_and_usage_hold_while_everything_is_killed(fleet: Service):
    keys = {
        name: await asyncio.to_thread(
            make_key, fleet, name, *(word for item in limits.items() for word in to_option(*item))
        )
        for name, limits in LIMITS.items()
    }
    load, chaos = Load(fleet, keys), Chaos(fleet, seed=5)
    killing = asyncio.create_task(chaos.run())
    loading = load.run(CLIENTS_PER_KEY, DURATION_S, seed=5)
    try:
        await loading
    finally:
        killing.cancel()
    await asyncio.to_thread(wait_until_quiet, fleet)
    records = read_records(fleet)

    print(Counter((each.key, each.status) for each in load.seen))
    codes = Counter(each.code for each in load.seen)
    print(codes)
    print(len(chaos.killed), "killed;", len(records), "records")
    assert len(chaos.killed) >= DURATION_S / 10
    assert "keys_unknown" not in codes, "a new ingress replica got requests before it knew the keys"
    for name, limits in LIMITS.items():
        check_limits([each for each in load.seen if each.key == name], limits)
        check_quotas([each for each in records if each["key_name"] == name], limits)
    check_records(load.seen, records, chaos.killed)


def to_option(name: str, value: object) -> tuple[str, str]:
    return f"--{name}", str(value)


def wait_until_quiet(service: Service) -> None:
    """Wait until every counter of open requests, streams and reservations is zero."""
    applications = ("ingress", "echo", "vectors", "ledger")
    wait_until(lambda: all(service.replica_pids()[name] for name in applications), timeout_s=60)
    with service.watching(*applications) as stats:

        def is_quiet() -> bool:
            replicas = [replica for name in applications for replica in stats()[name]]
            return len(replicas) >= 7 and all(is_at_rest(replica) for replica in replicas)

        try:
            wait_until(is_quiet, timeout_s=60)
        finally:
            print(stats())
    spools = service.home / "spool"
    wait_until(lambda: not any(file.stat().st_size for file in spools.iterdir()), timeout_s=20)


def read_records(service: Service) -> list[dict]:
    with sqlite3.connect(f"file:{database(service)}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        query = (
            "SELECT usage.*, keys.name AS key_name FROM usage JOIN keys ON usage.key_id = keys.id"
        )
        rows = [dict(row) for row in connection.execute(query)]
    return [row for row in rows if row["key_name"] in LIMITS]


def check_limits(seen: list[ClientRequest], limits: dict) -> None:
    """Requests certainly admitted within a minute stay within the limits; others are refused."""
    admitted = [each for each in seen if each.is_admitted]
    assert admitted
    if limits:
        refused = [each for each in seen if each.status == httpx.codes.TOO_MANY_REQUESTS]
        assert refused, "the load is too small to show anything"
    for first in admitted:
        within = [
            each
            for each in admitted
            if first.began_s <= each.began_s and each.admitted_s < first.began_s + WINDOW_S
        ]
        assert len(within) <= limits.get("rpm", len(within))
        tokens = sum(each.prompt_tokens + each.received for each in within)
        assert tokens <= limits.get("tpm", tokens)
    assert most_at_once(admitted) <= limits.get("concurrency", len(admitted))


def most_at_once(seen: Iterable[ClientRequest]) -> int:
    """The largest number of streamed responses that were received at the same time."""
    steps = []
    for each in seen:
        if each.ended_s - SLACK_S > each.admitted_s:
            steps += [(each.admitted_s, 1), (each.ended_s - SLACK_S, -1)]
    under_way = most = 0
    for _, step in sorted(steps):
        under_way += step
        most = max(most, under_way)
    return most


def check_quotas(records: list[dict], limits: dict) -> None:
    tokens = sum(each["prompt_tokens"] + each["completion_tokens"] for each in records)
    for quota in ("tokens-per-day", "tokens-per-month"):
        assert tokens <= limits.get(quota, tokens)


def check_records(
    seen: list[ClientRequest], records: list[dict], killed: list[tuple[float, str]]
) -> None:
    """Each complete response has one equal record; one cut short may have used more."""
    by_request = defaultdict(list)
    for record in records:
        by_request[record["request_id"]].append(record)
    asked = {each.id: each for each in seen}
    assert by_request.keys() <= asked.keys()
    for request_id, each in asked.items():
        found = by_request[request_id]
        assert len(found) <= 1, found
        if each.is_complete:
            (record,) = found
            assert record["prompt_tokens"] == each.prompt_tokens
            assert record["completion_tokens"] == each.received
            assert record["error_code"] is None
        elif found:
            assert each.received <= found[0]["completion_tokens"] <= each.max_tokens
        elif each.received:
            # Incomplete and without a record: only if its engine was killed.
            assert any(
                victim == "echo" and each.began_s <= at_s <= each.ended_s + 5
                for at_s, victim in killed
            ), each
