"""How requests are accounted for, with a ledger in this process."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from api.errors import ContextLengthExceededError, EngineError, OverloadedError, RateLimitError
from api.ports.rate_limits import Amounts
from api.ports.stream import Usage
from api.ports.tenancy import RequestContext
from deployments.models import accounting as desk_module
from deployments.models.accounting import RequestAccounting
from deployments.models.fair_queue import FairQueue
from tests.deployments.ledger.test_spool import leave, to_line
from tests.helpers.ledger_cluster import Rig, be_quick, make_record, rig, until

ORIGIN = RequestContext(
    key_id="key", tenant="acme", has_token_limits=True, user="ann", endpoint="chat/completions"
)
STREAMED = RequestContext(key_id="key", tenant="acme", endpoint="completions", is_streamed=True)


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def event_loop_policy(request):
    """Replicas run on uvloop."""
    return request.param()


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    be_quick(monkeypatch)
    monkeypatch.setattr(desk_module, "_SWEEP_S", 0.05)
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))
    return tmp_path


@contextlib.asynccontextmanager
async def open_desk(
    find, monkeypatch: pytest.MonkeyPatch, capacity: int = 1, max_waiting: int = 1
) -> AsyncIterator[RequestAccounting]:
    monkeypatch.setattr(desk_module, "find_ledger", find)
    desk = RequestAccounting("m", "llm", FairQueue(capacity, max_waiting))
    try:
        yield desk
    finally:
        desk.shut_down()


def spooled(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (home / "spool").glob("*.jsonl"))


async def recorded(it: Rig, desk: RequestAccounting, count: int = 1) -> list:
    await until(lambda: len(it.table.records) == count and not desk.stats()["unrecorded"])
    return list(it.table.records.values())


async def left_of(it: Rig) -> int:
    """How many tokens of this minute the key has left."""
    standing = await it.store.standing("key")
    return standing.tokens.remaining


async def test_an_answer_is_recorded_with_all_that_is_known_of_it(home, monkeypatch):
    async with rig(home) as it, open_desk(it.find, monkeypatch) as desk:
        async with desk.track("req_1", ORIGIN, "an-adapter") as work:
            await asyncio.sleep(0.02)
            await work.begin(9)
            work.first_s = time.monotonic()
            await asyncio.sleep(0.02)
            work.usage = Usage(3, 4, 2, 1)
            work.finish_reason = "length"
        (record,) = await recorded(it, desk)

        assert desk.stats() == dict.fromkeys(desk.stats(), 0)
    assert record.request_id == "req_1"
    assert (record.key_id, record.tenant, record.user) == ("key", "acme", "ann")
    assert (record.endpoint, record.model, record.adapter) == (
        "chat/completions",
        "m",
        "an-adapter",
    )
    assert (record.prompt_tokens, record.completion_tokens) == (3, 4)
    assert (record.cached_tokens, record.reasoning_tokens) == (2, 1)
    assert (record.finish_reason, record.error_code) == ("length", None)
    assert record.kind == "llm"
    assert not record.is_streamed
    assert 15 < record.queue_ms <= record.ttft_ms
    assert record.ttft_ms + 15 < record.total_ms < 5000


async def test_pictures_are_recorded_with_their_steps(home, monkeypatch):
    async with rig(home) as it:
        monkeypatch.setattr(desk_module, "find_ledger", it.find)
        desk = RequestAccounting("colours", "diffusion", FairQueue(1, 1))
        async with desk.track("r", STREAMED) as work:
            await work.begin(0)
            work.record_steps(2, 20, 64 * 64)
            work.images = 1
        (record,) = await recorded(it, desk)
        desk.shut_down()

    assert (record.images, record.image_steps, record.image_pixel_steps) == (1, 40, 40 * 4096)
    assert (record.finish_reason, record.ttft_ms, record.is_streamed) == ("stop", None, True)


async def fail(desk: RequestAccounting, error: BaseException) -> None:
    async with desk.track("r", ORIGIN) as work:
        await work.begin(5)
        work.usage = Usage(2, 1)
        work.finish_reason = "stop"
        raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineError("It gave up."), "engine_error"),
        (RuntimeError("broken"), "internal_error"),
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "cancelled"),  # as gRPC's servers end a call
    ],
)
async def test_a_failure_is_recorded_with_what_it_used(home, monkeypatch, error, code):
    async with rig(home, tokens_per_minute=10) as it, open_desk(it.find, monkeypatch) as desk:
        with pytest.raises(type(error)):
            await fail(desk, error)
        (record,) = await recorded(it, desk)

        assert (record.error_code, record.finish_reason) == (code, None)
        assert (record.prompt_tokens, record.completion_tokens) == (2, 1)
        assert await left_of(it) == 7
        assert desk.stats() == dict.fromkeys(desk.stats(), 0)


async def test_a_record_is_on_disk_before_the_answer_and_gone_when_the_ledger_has_it(
    home, monkeypatch
):
    async with rig(home) as it, open_desk(it.find, monkeypatch) as desk:
        it.table.is_broken = True
        async with desk.track("req_1", STREAMED) as work:
            await work.begin(1)
        assert b'"req_1"' in spooled(home)
        await asyncio.sleep(0.2)
        assert desk.stats()["unrecorded"] == 1
        assert spooled(home)
        it.table.is_broken = False
        await recorded(it, desk)

        assert spooled(home) == b""
    assert list((home / "spool").iterdir()) == []


async def test_a_record_survives_a_ledger_that_is_killed(home, monkeypatch):
    async with rig(home) as it, open_desk(it.find, monkeypatch) as desk:
        async with desk.track("r", STREAMED) as work:
            await work.begin(1)
            await it.kill()
        await asyncio.sleep(0.1)
        assert spooled(home)
        await it.start()
        await recorded(it, desk)

        assert spooled(home) == b""


async def test_a_refused_request_leaves_no_record(home, monkeypatch):
    async with rig(home, tokens_per_minute=5) as it, open_desk(it.find, monkeypatch) as desk:
        with pytest.raises(RateLimitError):
            async with desk.track("r", ORIGIN) as work:
                await work.begin(6)
        with pytest.raises(ContextLengthExceededError):
            async with desk.track("r", ORIGIN):
                raise ContextLengthExceededError("Too long.")
        with pytest.raises(ContextLengthExceededError):
            await fail(desk, ContextLengthExceededError("Too long."))  # some engines look only then
        await asyncio.sleep(0.1)

        assert not it.table.records
        assert spooled(home) == b""
        assert await left_of(it) == 5
        assert desk.stats() == dict.fromkeys(desk.stats(), 0)


async def wait_in_line(desk: RequestAccounting, tokens: int = 5) -> None:
    async with desk.track("r", ORIGIN) as work:
        await work.begin(tokens)
        await asyncio.Event().wait()


async def test_who_finds_the_queue_full_gets_its_tokens_back(home, monkeypatch):
    async with rig(home, tokens_per_minute=100) as it, open_desk(it.find, monkeypatch) as desk:
        both = [asyncio.create_task(wait_in_line(desk)) for _ in range(2)]
        await until(lambda: desk.stats()["waiting"] == 1)
        with pytest.raises(OverloadedError):
            await wait_in_line(desk, 50)
        await until(lambda: desk.stats()["held"] == 2)
        await asyncio.sleep(0.05)
        assert await left_of(it) == 90
        for task in both:
            task.cancel()
        await asyncio.wait(both)
        await recorded(it, desk)  # of the one that had begun

        assert desk.stats() == dict.fromkeys(desk.stats(), 0)
        assert await left_of(it) == 100


async def test_who_leaves_while_waiting_for_a_turn_gets_its_tokens_back(home, monkeypatch):
    async with rig(home, tokens_per_minute=100) as it, open_desk(it.find, monkeypatch) as desk:
        working = asyncio.create_task(wait_in_line(desk))
        await until(lambda: desk.stats()["busy"] == 1)
        waiting = asyncio.create_task(wait_in_line(desk, 40))
        await until(lambda: desk.stats()["waiting"] == 1)
        assert await left_of(it) == 55
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0.05)

        assert await left_of(it) == 95
        assert not it.table.records
        assert desk.stats()["waiting"] == 0
        working.cancel()
        await asyncio.wait([working])


async def test_tokens_that_were_not_used_come_back_with_the_record(home, monkeypatch):
    async with rig(home, tokens_per_minute=100) as it, open_desk(it.find, monkeypatch) as desk:
        async with desk.track("r", ORIGIN) as work:
            await work.begin(90)
            assert await left_of(it) == 10
            work.usage = Usage(5, 6)
        await recorded(it, desk)

        assert await left_of(it) == 89


async def test_what_a_dead_replica_has_left_is_brought_and_removed(home, monkeypatch):
    theirs = [make_record(request_id="theirs", prompt_tokens=2) for _ in range(2)]
    path = leave(home / "spool", *map(to_line, theirs), b'{"time_s":1,"req')
    async with rig(home, tokens_per_day=10) as it, open_desk(it.find, monkeypatch) as desk:
        it.table.records[theirs[0].id] = theirs[0]  # it had arrived, and nobody was told
        it.table.is_broken = True
        await until(lambda: desk.stats()["unrecorded"] == 2)
        await asyncio.sleep(0.1)
        assert path.exists()
        it.table.is_broken = False
        await until(lambda: not path.exists())

        assert it.table.records.keys() == {record.id for record in theirs}
        assert desk.stats()["unrecorded"] == 0


async def test_two_replicas_bring_the_same_records_once(home, monkeypatch):
    path = leave(home / "spool", to_line(make_record()))
    async with (
        rig(home) as it,
        open_desk(it.find, monkeypatch) as one,
        open_desk(it.find, monkeypatch) as other,
    ):
        await until(lambda: not path.exists())

        assert sum(it.table.groups) == 1
        assert one.stats()["unrecorded"] == other.stats()["unrecorded"] == 0


async def test_a_spool_that_cannot_be_read_is_looked_at_again(home, monkeypatch):
    def fail(folder: Path) -> list:
        raise PermissionError("not yours")

    path = leave(home / "spool", to_line(make_record()))
    async with rig(home) as it:
        with monkeypatch.context() as broken:
            broken.setattr(desk_module, "find_orphaned_spools", fail)
            monkeypatch.setattr(desk_module, "find_ledger", it.find)
            desk = RequestAccounting("m", "llm", FairQueue(1, 1))
            await until(lambda: desk._link.has_ledger)
            await asyncio.sleep(0.2)
        await until(lambda: not path.exists())
        desk.shut_down()


async def test_without_a_ledger_nothing_is_recorded_or_kept(home, monkeypatch):
    async def find_none() -> None:
        return None

    async with open_desk(find_none, monkeypatch) as desk:
        await until(lambda: desk._link.has_ledger is False)
        async with desk.track("r", STREAMED) as work:
            await work.begin(1)

        assert not (home / "spool").exists()
        assert desk.stats() == dict.fromkeys(desk.stats(), 0)


async def test_a_disk_that_takes_nothing_costs_no_request_anything(home, monkeypatch, caplog):
    (home / "spool").write_text("no folder")
    async with rig(home) as it, open_desk(it.find, monkeypatch) as desk:
        async with desk.track("r", STREAMED) as work:
            await work.begin(1)
        await recorded(it, desk)

    assert "not kept on disk" in caplog.text


async def test_a_hold_is_not_forgotten_when_the_ledger_comes_back(home, monkeypatch):
    async with rig(home, tokens_per_minute=100) as it, open_desk(it.find, monkeypatch) as desk:
        async with desk.track("r", ORIGIN) as work:
            await work.begin(60)
            await it.kill()
            await it.start()
            await asyncio.sleep(0.6)  # longer than sessions that are gone are waited for
            with pytest.raises(RateLimitError):
                await desk._link.reserve("key", Amounts(tokens=50))
            work.usage = Usage(1, 1)
        await recorded(it, desk)

        assert await left_of(it) == 98
