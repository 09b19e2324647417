"""A ledger in this process that can be killed and comes back, without Ray."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.ports.tenancy import KeyLimits
from deployments.ledger import client as ledger_link
from deployments.ledger import recorder as ledger_recorder
from deployments.ledger import server as ledger_server
from deployments.ledger.address import LedgerAddress
from deployments.ledger.audit_log import AuditLog
from deployments.ledger.client import LedgerClient
from deployments.ledger.limits.accounts import Accounts
from deployments.ledger.limits.sqlite_state import SqliteState
from deployments.ledger.limits.store import LocalStore
from deployments.ledger.protocol import KeySet
from deployments.ledger.records import UsageRecord
from deployments.ledger.server import LedgerServer
from deployments.ledger.store.errors import StoreError

LOOPBACK = "127.0.0.1"


class FakeTable:
    """A usage table that can be out of reach; it outlives ledgers."""

    def __init__(self):
        self.records: dict[str, UsageRecord] = {}
        self.is_broken = False
        self.groups: list[int] = []

    async def known(self, ids):
        return self.records.keys() & set(ids)

    async def add(self, records):
        await asyncio.sleep(0)
        if self.is_broken:
            raise StoreError("the database is away")
        self.groups.append(len(records))
        for record in records:
            self.records.setdefault(record.id, record)


class Rig:
    """A ledger that can be killed and comes back, and links to it."""

    def __init__(self, folder: Path, **limits: int):
        self.folder = folder
        self.table = FakeTable()
        self.limits = KeyLimits(**limits)
        self.address: LedgerAddress | None = None
        self.links: list[LedgerClient] = []

    async def start(self, *, knows_keys: bool = True) -> None:
        state = SqliteState(self.folder / "limits.db")
        self.accounts = Accounts(state)
        self.store = LocalStore(self.accounts, state)
        await self.store.set_limits({"key": self.limits})
        spent = sum(record.tokens for record in self.table.records.values())
        await self.store.set_spent({"key": (spent, spent)})
        self.server = LedgerServer(self.store, self.table, AuditLog(self.folder / "audit.jsonl"))
        self.address = await self.server.listen(LOOPBACK)
        if knows_keys:
            self.server.publish(KeySet([], b"mark"))

    async def kill(self) -> None:
        """As kill -9 does: nothing is said and nothing is tidied."""
        self.address = None
        self.server.shut_down()
        await asyncio.sleep(0.05)

    def slots(self) -> int:
        return self.accounts.stats()["slots"]

    async def link(self, on_keys=None) -> LedgerClient:
        link = LedgerClient(self.find, on_keys)
        link.start()
        self.links.append(link)
        return link

    async def find(self) -> LedgerAddress:
        if self.address is None:
            raise OSError("there is no ledger")
        return self.address


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


def be_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of seconds become waits of milliseconds."""
    monkeypatch.setattr(ledger_link, "_RETRY_S", 0.02)
    monkeypatch.setattr(ledger_link, "_ANSWER_TIMEOUT_S", 1.0)
    monkeypatch.setattr(ledger_server, "_GRACE_S", 0.2)
    monkeypatch.setattr(ledger_server, "_GRACE_AT_START_S", 0.4)
    monkeypatch.setattr(ledger_recorder, "_RETRY_S", 0.05)


@contextlib.asynccontextmanager
async def rig(folder: Path, **limits: int) -> AsyncIterator[Rig]:
    made = Rig(folder, **limits)
    await made.start()
    try:
        yield made
    finally:
        for link in made.links:
            link.shut_down()
        await made.kill()


async def until(is_so) -> None:
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110  # what is waited for is another task's state
            await asyncio.sleep(0.01)
