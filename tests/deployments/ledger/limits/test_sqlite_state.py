import contextlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from api.ports.rate_limits import Amounts, LimitExceeded
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.accounts import Accounts
from deployments.ledger.limits.sliding_window import COUNTED_S
from deployments.ledger.limits.sqlite_state import OpenReservation, SqliteState
from tests.helpers.limits import read_status

RESERVATION = OpenReservation("h", "s", "k", Amounts(1, 20, 3, 1), 1000)
LIMITS = {"k": KeyLimits(requests_per_minute=3, tokens_per_minute=100, concurrent_requests=2)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "limits.db"


async def reopen(path: Path, now_s: float, boot_id: str = "boot") -> Accounts:
    accounts = Accounts(SqliteState(path, boot_id), lambda: now_s)
    await accounts.set_limits(LIMITS)
    return accounts


async def leave_behind(path: Path) -> None:
    """Leave a file as a killed process does, without closing it."""
    state = SqliteState(path, "boot")
    accounts = Accounts(state, lambda: 1000.5)
    await accounts.set_limits(LIMITS)
    await accounts.reserve("s", "1", "k", Amounts(requests=1, tokens=50, concurrent=1))
    await accounts.reserve("s", "2", "k", Amounts(requests=1, tokens=40, concurrent=1))
    await accounts.settle("2", Amounts(requests=1, tokens=10))
    state.flush()


def test_only_flushed_changes_are_loaded(path: Path):
    state = SqliteState(path, "boot")
    state.put_bucket("k", "tokens", 1001, 5)
    state.put_bucket("k", "tokens", 1000, 7)
    state.put_bucket("k", "tokens", 1000, 9)
    state.put_reservation(RESERVATION)
    state.flush()
    state.put_bucket("k", "tokens", 1002, 5)

    assert SqliteState(path, "boot").load() == (
        [("k", "tokens", 1000, 9), ("k", "tokens", 1001, 5)],
        [RESERVATION],
    )


def test_deleted_reservation_is_not_loaded(path: Path):
    state = SqliteState(path, "boot")
    state.put_reservation(RESERVATION)
    state.flush()
    state.delete_reservation("h")
    state.flush()

    assert SqliteState(path, "boot").load() == ([], [])


def test_reservation_made_and_deleted_between_flushes_is_not_loaded(path: Path):
    state = SqliteState(path, "boot")
    state.put_reservation(RESERVATION)
    state.delete_reservation("h")
    state.flush()

    assert SqliteState(path, "boot").load() == ([], [])


def test_old_buckets_are_deleted(path: Path):
    state = SqliteState(path, "boot")
    state.put_bucket("k", "tokens", 1000, 7)
    state.put_bucket("k", "tokens", 1001, 8)
    state.delete_before(1001)
    state.flush()

    assert SqliteState(path, "boot").load() == ([("k", "tokens", 1001, 8)], [])


def test_emptied_buckets_are_not_loaded(path: Path):
    state = SqliteState(path, "boot")
    state.put_bucket("k", "tokens", 1000, 0)
    state.flush()

    assert SqliteState(path, "boot").load() == ([], [])


async def test_accounts_continue_after_a_restart(path: Path):
    await leave_behind(path)
    accounts = await reopen(path, 1010.0)

    status = await read_status(accounts)
    assert status.requests is not None
    assert status.requests.remaining == 1
    assert status.tokens is not None
    assert status.tokens.remaining == 40
    assert await accounts.sessions() == ["s"]
    assert await accounts.stats() == {
        "sessions": 1,
        "reservations": 1,
        "concurrent": 1,
        "open_tokens": 50,
    }


async def test_refund_after_a_restart_is_exact(path: Path):
    await leave_behind(path)
    accounts = await reopen(path, 1010.0)
    await accounts.settle("1", Amounts(requests=1))

    tokens = (await read_status(accounts)).tokens
    assert tokens is not None
    assert tokens.remaining == 90


async def test_reservation_outlives_its_window(path: Path):
    await leave_behind(path)
    accounts = await reopen(path, 1000.0 + COUNTED_S)

    tokens = (await read_status(accounts)).tokens
    assert tokens is not None
    assert tokens.remaining == 100
    assert (await accounts.stats())["concurrent"] == 1


async def test_buckets_of_the_future_do_not_count(path: Path):
    await leave_behind(path)

    tokens = (await read_status(await reopen(path, 500.0))).tokens
    assert tokens is not None
    assert tokens.remaining == 100


async def test_state_of_another_boot_is_discarded(path: Path):
    await leave_behind(path)

    assert SqliteState(path, "another").load() == ([], [])


def test_boot_id_is_the_kernels_by_default(path: Path):
    state = SqliteState(path)
    state.put_reservation(RESERVATION)
    state.flush()

    assert SqliteState(path).load() == ([], [RESERVATION])


async def test_pruning_deletes_old_buckets(path: Path):
    now_s = 1000.0
    state = SqliteState(path, "boot")
    accounts = Accounts(state, lambda: now_s)
    await accounts.set_limits(LIMITS)
    await accounts.reserve("s", "1", "k", Amounts(requests=1))
    state.flush()
    now_s += COUNTED_S + 1
    await accounts.flush()
    await accounts.reserve("s", "2", "k", Amounts(requests=1))
    state.flush()

    buckets, _ = SqliteState(path, "boot").load()
    assert [second for _, _, second, _ in buckets] == [int(now_s)]


def files_beside(path: Path) -> list[Path]:
    return list(path.parent.iterdir())


def damage(path: Path, kind: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = {
        "not a database": b"not a database" * 1000,
        "torn": path.read_bytes()[:4096] + os.urandom(8192),
    }
    path.write_bytes(content[kind])


@pytest.mark.parametrize("kind", ["not a database", "torn"])
async def test_broken_file_is_replaced_by_an_empty_one(
    path: Path, caplog: pytest.LogCaptureFixture, kind: str
):
    await leave_behind(path)
    damage(path, kind)
    state = SqliteState(path, "boot")
    before = state.load()
    state.put_reservation(RESERVATION)
    state.flush()

    assert before == ([], [])
    assert SqliteState(path, "boot").load() == ([], [RESERVATION])
    assert "the limits start empty" in caplog.text


async def test_failed_write_deletes_the_file_and_keeps_limits_in_memory(
    path: Path, caplog: pytest.LogCaptureFixture
):
    state = SqliteState(path, "boot")
    accounts = Accounts(state, lambda: 1000.0)
    await accounts.set_limits({"k": KeyLimits(requests_per_minute=1)})
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE buckets")
    connection.close()
    await accounts.reserve("s", "1", "k", Amounts(requests=1))
    with caplog.at_level(logging.WARNING):
        state.flush()
    second = await accounts.reserve("s", "2", "k", Amounts(requests=1))
    state.flush()

    assert isinstance(second, LimitExceeded)
    assert caplog.text.count("cannot be written") == 1
    assert state.load() == ([], [])
    assert files_beside(path) == []


async def test_file_that_cannot_be_made_leaves_limits_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    state = SqliteState(tmp_path / "no folder" / "limits.db", "boot")
    accounts = Accounts(state, lambda: 1000.0)
    await accounts.set_limits({"k": KeyLimits(requests_per_minute=1)})
    await accounts.reserve("s", "1", "k", Amounts(requests=1))
    await accounts.flush()

    assert isinstance(await accounts.reserve("s", "2", "k", Amounts(requests=1)), LimitExceeded)
    assert caplog.text.count("is kept in memory only") == 1


GRANTER = """
import asyncio, sys
from pathlib import Path
from api.ports.rate_limits import Amounts
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.accounts import Accounts
from deployments.ledger.limits.sqlite_state import SqliteState

async def main():
    accounts = Accounts(SqliteState(Path(sys.argv[1])))
    await accounts.set_limits({"k": KeyLimits(requests_per_minute=10**9)})
    for number in range(10**9):
        await accounts.reserve("s", str(number), "k", Amounts(requests=1, concurrent=1))
        await accounts.flush()
        print(number, flush=True)

asyncio.run(main())
"""


def test_killed_process_loses_no_flushed_grant(path: Path):
    granter = subprocess.Popen(
        [sys.executable, "-c", GRANTER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert granter.stdout is not None
    told = [granter.stdout.readline() for _ in range(500)]
    granter.send_signal(signal.SIGKILL)
    told += granter.stdout.readlines()
    granter.wait()
    buckets, reservations = SqliteState(path).load()

    granted = len(told)
    assert len(reservations) in (granted, granted + 1)
    assert sum(amount for *_, amount in buckets) == len(reservations)


def test_file_of_another_layout_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "limits.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE epoch (id TEXT PRIMARY KEY) STRICT;"
            "CREATE TABLE holds (id TEXT PRIMARY KEY, session TEXT) STRICT, WITHOUT ROWID;"
            "INSERT INTO epoch VALUES ('boot 1');"
            "INSERT INTO holds VALUES ('a', 'b');"
        )
    state = SqliteState(path, "boot")
    state.put_reservation(OpenReservation("1", "s", "k", Amounts(pixel_steps=7), 5))
    state.flush()
    state.close()

    _, reservations = SqliteState(path, "boot").load()

    assert [each.amounts.pixel_steps for each in reservations] == [7]
