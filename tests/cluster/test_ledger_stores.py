"""The ledger with PostgreSQL for keys and usage and Redis for limits, and without either."""

import asyncio
import contextlib
import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.cluster.conftest import APPLICATIONS, LEDGER, application
from tests.helpers.postgres import make_database, running_postgres
from tests.helpers.redis_server import running_redis
from tests.helpers.service import Service, is_at_rest, running, wait_until
from tests.helpers.tenants import client, is_accepted, is_refused, make_key, run_tool

pytestmark = pytest.mark.cluster

WORDS = "one two three four"


@dataclass
class Stores:
    """A service and the servers that store its keys, usage and limits."""

    service: Service
    database: str
    postgres: psutil.Process
    redis: psutil.Process
    admin: str

    def api(self) -> httpx.Client:
        """An HTTP client with the admin key."""
        headers = {"authorization": f"Bearer {self.admin}"}
        return httpx.Client(base_url=f"{self.service.url}/v1", headers=headers, timeout=90)

    def make_key(self, name: str, **limits: int) -> str:
        """Make a key over HTTP; returns when all ingress replicas accept it."""
        with self.api() as http:
            answer = http.post("/keys", json={"name": name, "limits": limits})
            assert answer.status_code == 200, answer.text
        key: str = answer.json()["key"]
        wait_until(lambda: is_accepted(self.service, key), timeout_s=10)
        return key

    def requests_of(self, name: str) -> int:
        """The number of a key's requests recorded in PostgreSQL."""
        by_key = ("--by", "key", "--csv", "--database", self.database)
        rows = csv.DictReader(run_tool(self.service, "usage", *by_key).splitlines())
        return sum(int(row["requests"]) for row in rows if name in row.values())

    def keys(self) -> dict[str, Any]:
        """The keys' state in `/ready`, which must answer 200."""
        with self.service.client() as client:
            answer = client.get("/ready")
        assert answer.status_code == 200
        keys: dict[str, Any] = answer.json()["keys"]
        return keys


@contextlib.contextmanager
def frozen(server: psutil.Process) -> Iterator[None]:
    """Suspend a server, so that it accepts connections but answers nothing."""
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    home: Path = tmp_path_factory.mktemp("stores")
    ingress = APPLICATIONS[0]
    ingress = {**ingress, "deployments": [{**ingress["deployments"][0], "num_replicas": 2}]}
    echo = application("echo", "llm", "LLM", engine={"tokens_per_s": 50})
    with running_postgres() as postgres_port, running_redis() as redis_port:
        database = make_database(postgres_port, "triptych")
        args = {"database": database, "redis": f"redis://127.0.0.1:{redis_port}"}
        config = {"applications": [ingress, echo, {**LEDGER, "args": args}]}
        with running(config, home) as service:
            yield Stores(
                service,
                database,
                find_server("postgres", postgres_port),
                find_server("redis-server", redis_port),
                make_key(service, "admin", "--scope", "admin", "--database", database),
            )


def find_server(name: str, port: int) -> psutil.Process:
    (server,) = (
        child
        for child in psutil.Process().children()
        if child.name() == name and str(port) in " ".join(child.cmdline())
    )
    return server


async def complete(service: Service, key: str, **members: Any) -> object:
    """Send one request; returns the response or the error."""
    body = {"model": "echo", "prompt": WORDS, "max_tokens": 4, **members}
    async with client(service, key) as sdk:
        try:
            return await sdk.completions.create(**body)
        except openai.APIError as error:
            return error


async def start_and_disconnect(service: Service, key: str, **members: Any) -> None:
    """Disconnect from a stream after its first chunk."""
    body = {"model": "echo", "prompt": WORDS, "stream": True, **members}
    async with client(service, key) as sdk, await sdk.completions.create(**body) as stream:
        await anext(aiter(stream))


async def count_admitted(service: Service, key: str, count: int, **members: Any) -> int:
    """Send `count` requests at once; returns how many were admitted. Limits refuse the others."""
    requests = (complete(service, key, **members) for _ in range(count))
    results = await asyncio.gather(*requests)
    errors = [result for result in results if isinstance(result, Exception)]
    assert all(isinstance(error, openai.RateLimitError) for error in errors), errors
    return count - len(errors)


async def test_limits_and_usage_survive_a_killed_ledger(stores: Stores):
    service = stores.service
    key = stores.make_key("ten-requests", requests_per_minute=10)
    day = stores.make_key("a-day", tokens_per_day=20)
    began_s = time.monotonic()
    assert await count_admitted(service, key, 50) == 10
    assert await count_admitted(service, day, 1) == 1
    wait_until(lambda: stores.requests_of("ten-requests") == 10, timeout_s=10)
    (pid,) = service.replica_pids()["ledger"]
    psutil.Process(pid).kill()
    assert await count_admitted(service, key, 5) == 0
    assert await count_admitted(service, day, 2) == 1
    assert time.monotonic() - began_s < 50, "the minute must not be over"

    assert service.replica_pids()["ledger"] != [pid]
    assert stores.requests_of("ten-requests") == 10
    wait_until(lambda: stores.requests_of("a-day") == 2, timeout_s=10)
    assert stores.keys() == {"state": "known", "message": None}
    assert await count_admitted(service, stores.make_key("after"), 3) == 3


async def test_concurrency_and_tokens_are_counted_over_both_ingress_replicas(stores: Stores):
    places = stores.make_key("ten-places", concurrent_requests=10)
    tokens = stores.make_key("eighty-tokens", tokens_per_minute=80)

    assert await count_admitted(stores.service, places, 50, max_tokens=100) == 10
    assert await count_admitted(stores.service, places, 50, max_tokens=100) == 10
    assert await count_admitted(stores.service, tokens, 50) == 10


async def test_known_keys_stay_valid_while_the_database_is_away(stores: Stores):
    service = stores.service
    free, limited = stores.make_key("free"), stores.make_key("limited", tokens_per_minute=500)
    wrong = free[:-6] + "000000"
    with frozen(stores.postgres):
        took_s = wait_until(lambda: stores.keys()["state"] == "stale", timeout_s=20)
        print(f"stale after {took_s:.1f} s")
        assert "cannot be read since" in stores.keys()["message"]
        assert await count_admitted(service, free, 20) == 20
        # Unused tokens are refunded even if the database cannot be written.
        await start_and_disconnect(service, limited, max_tokens=490)
        began_s = time.monotonic()
        while await count_admitted(service, limited, 1, max_tokens=100) == 0:
            assert time.monotonic() - began_s < 30
            await asyncio.sleep(0.5)
        print(f"settled after {time.monotonic() - began_s:.1f} s")
        assert is_refused(service, wrong)
        with stores.api() as http:
            began_s = time.monotonic()
            answer = http.post("/keys", json={"name": "impossible"})
        print(f"{answer.status_code} after {time.monotonic() - began_s:.1f} s")
        assert answer.status_code == 503
    took_s = wait_until(lambda: stores.keys()["state"] == "known", timeout_s=20)
    print(f"known after {took_s:.1f} s")
    took_s = wait_until(lambda: stores.requests_of("free") == 20, timeout_s=20)
    print(f"recorded after {took_s:.1f} s")
    wait_until(lambda: stores.requests_of("limited") == 2, timeout_s=20)

    with stores.api() as http:
        names = [each["name"] for each in http.get("/keys").json()["data"]]
    assert "impossible" not in names


async def test_only_keys_without_limits_work_while_redis_is_away(stores: Stores):
    service = stores.service
    free, limited = stores.make_key("unlimited"), stores.make_key("few", requests_per_minute=10)
    tokens = stores.make_key("few-tokens", tokens_per_minute=100)
    assert await count_admitted(service, limited, 3) == 3
    ending = asyncio.create_task(complete(service, tokens, max_tokens=90))
    await asyncio.sleep(1)
    with frozen(stores.redis):
        assert not isinstance(await ending, Exception)
        assert await count_admitted(service, free, 10) == 10
        results = await asyncio.gather(*(complete(service, limited) for _ in range(5)))
        assert [getattr(error, "status_code", None) for error in results] == [503] * 5
        assert stores.keys()["state"] == "known"
    await asyncio.sleep(2)

    assert await count_admitted(service, limited, 20) == 7
    assert await count_admitted(service, tokens, 1, max_tokens=3) == 0
    assert await count_admitted(service, tokens, 1, max_tokens=2) == 1
    wait_until(lambda: stores.requests_of("unlimited") == 10, timeout_s=20)


async def test_all_counters_return_to_zero(stores: Stores):
    with stores.service.watching("ingress", "echo", "ledger") as stats:

        def is_quiet() -> bool:
            return all(is_at_rest(replica) for app in stats().values() for replica in app)

        try:
            wait_until(is_quiet, timeout_s=20)
        finally:
            print(stats())
