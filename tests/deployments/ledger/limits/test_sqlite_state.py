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

HOLD = OpenReservation("h", "s", "k", Amounts(1, 20, 3, 1), 1000)
LIMITS = {"k": KeyLimits(requests_per_minute=3, tokens_per_minute=100, concurrent_requests=2)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "limits.db"


def reopen(path: Path, now_s: float, boot_id: str = "boot") -> Accounts:
    accounts = Accounts(SqliteState(path, boot_id), lambda: now_s)
    accounts.set_limits(LIMITS)
    return accounts


def leave_behind(path: Path) -> None:
    """As a killed process does: nothing is closed."""
    state = SqliteState(path, "boot")
    accounts = Accounts(state, lambda: 1000.5)
    accounts.set_limits(LIMITS)
    accounts.reserve("s", "1", "k", Amounts(requests=1, tokens=50, slots=1))
    accounts.reserve("s", "2", "k", Amounts(requests=1, tokens=40, slots=1))
    accounts.settle("2", Amounts(requests=1, tokens=10))
    state.flush()


def test_what_was_flushed_is_there_again(path: Path):
    state = SqliteState(path, "boot")
    state.put_bucket("k", "tokens", 1001, 5)
    state.put_bucket("k", "tokens", 1000, 7)
    state.put_bucket("k", "tokens", 1000, 9)
    state.put_hold(HOLD)
    state.flush()
    state.put_bucket("k", "tokens", 1002, 5)

    assert SqliteState(path, "boot").load() == (
        [("k", "tokens", 1000, 9), ("k", "tokens", 1001, 5)],
        [HOLD],
    )


def test_dropped_hold_is_not_there_again(path: Path):
    state = SqliteState(path, "boot")
    state.put_hold(HOLD)
    state.flush()
    state.drop_hold("h")
    state.flush()

    assert SqliteState(path, "boot").load() == ([], [])


def test_hold_that_began_and_ended_in_one_batch_is_not_there(path: Path):
    state = SqliteState(path, "boot")
    state.put_hold(HOLD)
    state.drop_hold("h")
    state.flush()

    assert SqliteState(path, "boot").load() == ([], [])


def test_old_buckets_are_deleted(path: Path):
    state = SqliteState(path, "boot")
    state.put_bucket("k", "tokens", 1000, 7)
    state.put_bucket("k", "tokens", 1001, 8)
    state.forget_before(1001)
    state.flush()

    assert SqliteState(path, "boot").load() == ([("k", "tokens", 1001, 8)], [])


def test_emptied_buckets_are_not_loaded(path: Path):
    state = SqliteState(path, "boot")
    state.put_bucket("k", "tokens", 1000, 0)
    state.flush()

    assert SqliteState(path, "boot").load() == ([], [])


def test_accounts_go_on_where_they_were(path: Path):
    leave_behind(path)
    accounts = reopen(path, 1010.0)

    standing = accounts.standing("k")
    assert standing.requests is not None
    assert standing.requests.remaining == 1
    assert standing.tokens is not None
    assert standing.tokens.remaining == 40
    assert accounts.sessions() == ["s"]
    assert accounts.stats() == {"sessions": 1, "holds": 1, "slots": 1, "open_tokens": 50}


def test_refund_after_a_restart_is_exact(path: Path):
    leave_behind(path)
    accounts = reopen(path, 1010.0)
    accounts.settle("1", Amounts(requests=1))

    tokens = accounts.standing("k").tokens
    assert tokens is not None
    assert tokens.remaining == 90


def test_holds_outlive_the_window(path: Path):
    leave_behind(path)
    accounts = reopen(path, 1000.0 + COUNTED_S)

    tokens = accounts.standing("k").tokens
    assert tokens is not None
    assert tokens.remaining == 100
    assert accounts.stats()["slots"] == 1


def test_buckets_of_the_future_are_not_believed(path: Path):
    leave_behind(path)

    tokens = reopen(path, 500.0).standing("k").tokens
    assert tokens is not None
    assert tokens.remaining == 100


def test_state_of_another_boot_is_not_believed(path: Path):
    leave_behind(path)

    assert SqliteState(path, "another").load() == ([], [])


def test_boot_is_the_machines_by_default(path: Path):
    state = SqliteState(path)
    state.put_hold(HOLD)
    state.flush()

    assert SqliteState(path).load() == ([], [HOLD])


def test_tidying_deletes_old_buckets(path: Path):
    now_s = 1000.0
    state = SqliteState(path, "boot")
    accounts = Accounts(state, lambda: now_s)
    accounts.set_limits(LIMITS)
    accounts.reserve("s", "1", "k", Amounts(requests=1))
    state.flush()
    now_s += COUNTED_S + 1
    accounts.tidy()
    accounts.reserve("s", "2", "k", Amounts(requests=1))
    state.flush()

    buckets, _ = SqliteState(path, "boot").load()
    assert [tick for _, _, tick, _ in buckets] == [int(now_s)]


@pytest.mark.parametrize("damage", ["not a database", "torn"])
def test_broken_file_is_replaced(path: Path, caplog: pytest.LogCaptureFixture, damage: str):
    leave_behind(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = {
        "not a database": b"not a database" * 1000,
        "torn": path.read_bytes()[:4096] + os.urandom(8192),
    }
    path.write_bytes(content[damage])
    state = SqliteState(path, "boot")
    before = state.load()
    state.put_hold(HOLD)
    state.flush()

    assert before == ([], [])
    assert SqliteState(path, "boot").load() == ([], [HOLD])
    assert "the limits begin anew" in caplog.text


def test_limits_go_on_when_the_state_cannot_be_written(
    path: Path, caplog: pytest.LogCaptureFixture
):
    state = SqliteState(path, "boot")
    accounts = Accounts(state, lambda: 1000.0)
    accounts.set_limits({"k": KeyLimits(requests_per_minute=1)})
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE buckets")
    connection.close()
    accounts.reserve("s", "1", "k", Amounts(requests=1))
    with caplog.at_level(logging.WARNING):
        state.flush()
    second = accounts.reserve("s", "2", "k", Amounts(requests=1))
    state.flush()

    assert isinstance(second, LimitExceeded)
    assert caplog.text.count("cannot be written") == 1
    assert state.load() == ([], [])
    assert not path.exists()


GRANTER = """
import sys
from pathlib import Path
from api.ports.rate_limits import Amounts
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.accounts import Accounts
from deployments.ledger.limits.sqlite_state import SqliteState

state = SqliteState(Path(sys.argv[1]))
accounts = Accounts(state)
accounts.set_limits({"k": KeyLimits(requests_per_minute=10**9)})
for number in range(10**9):
    accounts.reserve("s", str(number), "k", Amounts(requests=1, slots=1))
    state.flush()
    print(number, flush=True)
"""


def test_kill_loses_nothing_that_anyone_was_told(path: Path):
    granter = subprocess.Popen(
        [sys.executable, "-c", GRANTER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert granter.stdout is not None
    told = [granter.stdout.readline() for _ in range(500)]
    granter.send_signal(signal.SIGKILL)
    told += granter.stdout.readlines()
    granter.wait()
    buckets, holds = SqliteState(path).load()

    granted = len(told)
    assert len(holds) in (granted, granted + 1)
    assert sum(amount for *_, amount in buckets) == len(holds)
