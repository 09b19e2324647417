"""A disk that is full for a while: what is kept, what is lost, and that it goes on afterwards."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.errors import ImageStoreError
from api.ports.rate_limits import Amounts, LimitExceeded
from api.ports.tenancy import KeyLimits
from deployments.config.ingress import ImageStoreArgs, PromptLogArgs
from deployments.ingress.image_store import ImageFolder
from deployments.ingress.prompt_log import PromptFiles
from deployments.ledger.limits.accounts import Accounts
from deployments.ledger.limits.sqlite_state import SqliteState
from deployments.ledger.spool import Spool, find_orphaned_spools
from deployments.ledger.store.database import Database
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.usage import UsageStore
from tests.helpers.disks import filled, small_disk
from tests.helpers.ledger_cluster import make_record

RECORDS = [make_record(request_id=str(number)) for number in range(200)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 1024) as disk:
        yield disk


def test_spool_goes_on_after_a_full_disk(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(disk / "spool")
    with filled(disk):
        for record in RECORDS:
            spool.append(record)
    kept = make_record(request_id="kept")
    spool.append(kept)
    spool.shut_down()
    (orphan,) = find_orphaned_spools(disk / "spool")
    records = orphan.records
    orphan.close()

    assert records[-1] == kept
    assert caplog.text.count("cannot be spooled") == 1


async def test_database_refuses_records_whole_and_takes_them_after_a_full_disk(disk: Path) -> None:
    database = Database(f"sqlite:///{disk / 'triptych.db'}")
    await database.migrate()
    usage = UsageStore(database)
    with filled(disk), pytest.raises(StoreError, match="full"):
        await usage.add(RECORDS)
    await usage.add(RECORDS)
    await usage.add(RECORDS)
    async with database.reading() as connection:
        rows = await connection.exec_driver_sql("SELECT count(*) FROM usage")
        count = rows.scalar_one()
    await database.close()

    assert count == len(RECORDS)


async def test_limits_hold_on_a_full_disk(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    accounts = Accounts(SqliteState(disk / "limits.db"), lambda: 1000.0)
    await accounts.set_limits({"k": KeyLimits(requests_per_minute=300)})
    with filled(disk):
        for number in range(300):
            await accounts.reserve("s", str(number), "k", Amounts(requests=1))
        await accounts.flush()
        refused = await accounts.reserve("s", "more", "k", Amounts(requests=1))
        await accounts.flush()

    assert isinstance(refused, LimitExceeded)
    assert caplog.text.count("is kept in memory only") == 1


async def test_ledger_starts_with_empty_limits_on_a_full_disk(disk: Path) -> None:
    with filled(disk):
        state = SqliteState(disk / "limits.db")

    assert state.load() == ([], [])


async def test_images_are_refused_on_a_full_disk_and_stored_afterwards(disk: Path) -> None:
    store = ImageFolder(ImageStoreArgs(folder=str(disk / "images")))
    with filled(disk):
        with pytest.raises(ImageStoreError):
            await store.keep(b"x" * 50_000, "png")
        left = await asyncio.to_thread(list, (disk / "images").iterdir())
    name = await store.keep(b"x" * 50_000, "png")

    assert left == []
    assert await store.find(name) == b"x" * 50_000


def test_prompts_are_logged_again_after_a_full_disk(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = PromptFiles(PromptLogArgs(folder=str(disk / "log")))
    with filled(disk):
        for _ in range(3):
            files.keep("lost", "m", json.dumps({"prompt": "x" * 10_000}).encode())
        files._thread.submit(int).result()
    files.keep("kept", "m", b"{}")
    files.shut_down()
    (path,) = (disk / "log").iterdir()

    assert json.loads(path.read_text().splitlines()[-1])["request_id"] == "kept"
    assert caplog.text.count("prompts cannot be logged") == 1
