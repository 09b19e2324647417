"""A ledger in this process that can be killed and restarted, and its clients; without Ray."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from api.ports.rate_limits import Amounts
from api.ports.tenancy import KeyLimits
from deployments.ledger.address import LedgerAddress
from deployments.ledger.audit_log import AuditLog
from deployments.ledger.client import LedgerClient
from deployments.ledger.limits.accounts import Accounts
from deployments.ledger.limits.sqlite_state import SqliteState
from deployments.ledger.protocol import KeySet
from deployments.ledger.recorder import Recorder
from deployments.ledger.records import UsageRecord
from deployments.ledger.server import LedgerServer
from deployments.ledger.store.errors import StoreError
from tests.helpers.limits import read_status

LOOPBACK = "127.0.0.1"
GRACE_S = 0.2
"""How long the ledger keeps the reservations of a disconnected client."""


class FakeTable:
    """A usage table in memory; it outlives the ledger."""

    def __init__(self):
        self.records: dict[str, UsageRecord] = {}
        self.groups: list[int] = []
        """Sizes of the groups that were written."""
        self.is_broken = False
        self.is_hanging = False
        self.failures = 0
        """Writes that failed or hung."""

    async def known(self, ids):
        return self.records.keys() & set(ids)

    async def add(self, records):
        await asyncio.sleep(0)
        if self.is_broken:
            self.failures += 1
            raise StoreError("the database is away")
        if self.is_hanging:
            self.failures += 1
            await asyncio.Event().wait()
        self.groups.append(len(records))
        for record in records:
            self.records.setdefault(record.id, record)


class LedgerCluster:
    """A ledger with the limits of one key named `key`, and its clients, with short timeouts."""

    def __init__(self, folder: Path, **limits: int):
        self.folder = folder
        self.table = FakeTable()
        self.limits = KeyLimits(**limits)
        self.address: LedgerAddress | None = None
        self.clients: list[LedgerClient] = []

    async def start(self, *, knows_keys: bool = True) -> None:
        self.accounts = Accounts(SqliteState(self.folder / "limits.db"))
        await self.accounts.set_limits({"key": self.limits})
        used = sum(record.tokens for record in self.table.records.values())
        await self.accounts.set_quota_usage({"key": (used, used)})
        self.recorder = Recorder(self.accounts, self.table, retry_s=0.05, write_timeout_s=0.2)
        audit = AuditLog(self.folder / "audit.jsonl")
        self.server = LedgerServer(
            self.accounts, self.recorder, audit, grace_s=GRACE_S, grace_at_start_s=2 * GRACE_S
        )
        self.address = await self.server.listen(LOOPBACK)
        if knows_keys:
            self.server.publish(KeySet([], b"fingerprint"))

    async def kill(self) -> None:
        """End as after a `kill -9`: nothing is sent and nothing is flushed."""
        self.address = None
        self.server.shut_down()
        await until(lambda: self.server.stats()["clients"] == 0)

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    def make_client(self, on_keys: Callable[[KeySet], None] | None = None) -> LedgerClient:
        """Make a client that is not started."""
        return LedgerClient(self.find, on_keys, answer_timeout_s=1.0, retry_s=0.02)

    def connect(self, on_keys: Callable[[KeySet], None] | None = None) -> LedgerClient:
        """Start a client; it is shut down with the cluster."""
        client = self.make_client(on_keys)
        client.start()
        self.clients.append(client)
        return client

    async def find(self) -> LedgerAddress:
        if self.address is None:
            raise OSError("there is no ledger")
        return self.address

    async def tokens_left(self) -> int:
        """Tokens that the key has left in this minute."""
        status = await read_status(self.accounts, "key")
        assert status.tokens is not None
        return status.tokens.remaining

    async def concurrent(self) -> int:
        """Requests in flight."""
        return (await self.accounts.stats())["concurrent"]

    async def until_concurrent(self, count: int) -> None:
        async with asyncio.timeout(5):
            while await self.concurrent() != count:  # noqa: ASYNC110  # another task's state
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def ledger_cluster(folder: Path, **limits: int) -> AsyncIterator[LedgerCluster]:
    cluster = LedgerCluster(folder, **limits)
    await cluster.start()
    try:
        yield cluster
    finally:
        for client in cluster.clients:
            client.shut_down()
        await cluster.kill()


async def roundtrip(client: LedgerClient) -> None:
    """Return when the ledger has handled all that the client has sent; messages stay in order."""
    client.settle(await client.reserve("key without limits", Amounts()), Amounts())


def make_record(**fields) -> UsageRecord:
    return UsageRecord(
        **{
            "time_s": time.time(),
            "request_id": "r",
            "key_id": "key",
            "tenant": "t",
            "endpoint": "completions",
            "model": "m",
            "kind": "llm",
            "total_ms": 1.0,
            **fields,
        }
    )


def write_orphan_spool(folder: Path, *lines: bytes) -> Path:
    """Write the spool of a dead replica: a file that no process has locked."""
    folder.mkdir(exist_ok=True)
    path = folder / "dead.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def to_spool_line(record: UsageRecord) -> bytes:
    return msgspec.json.encode(record) + b"\n"


async def until(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not is_true():  # noqa: ASYNC110  # another task's state
            await asyncio.sleep(0.01)
