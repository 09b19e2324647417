"""Request accounting, with a ledger in this process."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from api.errors import ContextLengthExceededError, EngineError, OverloadedError, RateLimitError
from api.ports.rate_limits import Amounts
from api.ports.stream import Usage
from api.ports.tenancy import ModelKind, RequestContext
from deployments.ledger.client import LedgerClient
from deployments.models.accounting import RequestAccounting
from deployments.models.fair_queue import FairQueue
from tests.helpers.ledger_cluster import (
    LedgerCluster,
    ledger_cluster,
    make_record,
    to_spool_line,
    until,
    write_orphan_spool,
)

CONTEXT = RequestContext(
    key_id="key", tenant="acme", has_token_limits=True, user="ann", endpoint="chat/completions"
)
STREAMED = RequestContext(key_id="key", tenant="acme", endpoint="completions", is_streamed=True)


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def event_loop_policy(request):
    """Replicas run on uvloop."""
    return request.param()


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))
    return tmp_path


@contextlib.asynccontextmanager
async def open_accounting(
    client: LedgerClient, kind: ModelKind = "llm"
) -> AsyncIterator[RequestAccounting]:
    """The accounting of a replica with one slot and room for one waiting request."""
    queue = FairQueue(capacity=1, max_waiting=1)
    accounting = RequestAccounting("m", kind, queue, client, recover_interval_s=0.05)
    try:
        yield accounting
    finally:
        accounting.shut_down()


def spooled(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (home / "spool").glob("*.jsonl"))


async def recorded(ledger: LedgerCluster, accounting: RequestAccounting, count: int = 1) -> list:
    await until(lambda: len(ledger.table.records) == count and not accounting.stats()["unrecorded"])
    return list(ledger.table.records.values())


async def test_completed_request_is_recorded_with_its_usage_and_times(home):
    async with ledger_cluster(home) as ledger, open_accounting(ledger.make_client()) as accounting:
        async with accounting.track("req_1", CONTEXT, "an-adapter") as request:
            await asyncio.sleep(0.02)
            await request.begin(9)
            request.first_s = time.monotonic()
            await asyncio.sleep(0.02)
            request.usage = Usage(3, 4, 2, 1)
            request.finish_reason = "length"
        (record,) = await recorded(ledger, accounting)

        assert accounting.stats() == dict.fromkeys(accounting.stats(), 0)
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


async def test_record_has_the_usage_id_of_its_request(home):
    async with ledger_cluster(home) as ledger, open_accounting(ledger.make_client()) as accounting:
        async with accounting.track("r", replace(CONTEXT, usage_id="u1")) as request:
            await request.begin(1)
        (record,) = await recorded(ledger, accounting)

    assert record.id == "u1"


async def test_request_that_two_replicas_answered_is_metered_once(home):
    """The first one was lost after it had recorded the request, and before its answer arrived."""
    first = replace(CONTEXT, usage_id="u1")
    async with (
        ledger_cluster(home, tokens_per_day=100) as ledger,
        open_accounting(ledger.make_client()) as accounting,
    ):
        for context in (first, replace(first, is_retried=True)):
            async with accounting.track("r", context) as request:
                await request.begin(4)
                request.usage = Usage(2, 2)
            await recorded(ledger, accounting)

        assert len(ledger.table.records) == 1
        with pytest.raises(RateLimitError):
            await ledger.connect().reserve("key", Amounts(tokens=97))
        await ledger.connect().reserve("key", Amounts(tokens=96))


async def test_images_are_recorded_with_their_steps(home):
    async with (
        ledger_cluster(home) as ledger,
        open_accounting(ledger.make_client(), "diffusion") as accounting,
    ):
        async with accounting.track("r", STREAMED) as request:
            await request.begin(0)
            request.record_steps(2, 20, 64 * 64)
            request.images = 1
        (record,) = await recorded(ledger, accounting)

    assert record.kind == "diffusion"
    assert (record.images, record.image_steps, record.image_pixel_steps) == (1, 40, 40 * 4096)
    assert (record.finish_reason, record.ttft_ms, record.is_streamed) == ("stop", None, True)


async def fail(accounting: RequestAccounting, error: BaseException) -> None:
    async with accounting.track("r", CONTEXT) as request:
        await request.begin(5)
        request.usage = Usage(2, 1)
        request.finish_reason = "stop"
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
async def test_failed_request_is_recorded_with_its_usage(home, error, code):
    async with (
        ledger_cluster(home, tokens_per_minute=10) as ledger,
        open_accounting(ledger.make_client()) as accounting,
    ):
        with pytest.raises(type(error)):
            await fail(accounting, error)
        (record,) = await recorded(ledger, accounting)

        assert (record.error_code, record.finish_reason) == (code, None)
        assert (record.prompt_tokens, record.completion_tokens) == (2, 1)
        assert await ledger.tokens_left() == 7
        assert accounting.stats() == dict.fromkeys(accounting.stats(), 0)


async def test_record_is_spooled_before_the_response_and_removed_once_the_ledger_has_it(home):
    async with ledger_cluster(home) as ledger, open_accounting(ledger.make_client()) as accounting:
        ledger.table.is_broken = True
        async with accounting.track("req_1", STREAMED) as request:
            await request.begin(1)
        assert b'"req_1"' in spooled(home)
        await asyncio.sleep(0.2)
        assert accounting.stats()["unrecorded"] == 1
        assert spooled(home)
        ledger.table.is_broken = False
        await recorded(ledger, accounting)

        assert spooled(home) == b""
    assert list((home / "spool").iterdir()) == []


async def test_record_survives_a_killed_ledger(home):
    async with ledger_cluster(home) as ledger, open_accounting(ledger.make_client()) as accounting:
        async with accounting.track("r", STREAMED) as request:
            await request.begin(1)
            await ledger.kill()
        await asyncio.sleep(0.1)
        assert spooled(home)
        await ledger.start()
        await recorded(ledger, accounting)

        assert spooled(home) == b""


async def test_invalid_or_rate_limited_request_leaves_no_record(home):
    async with (
        ledger_cluster(home, tokens_per_minute=5) as ledger,
        open_accounting(ledger.make_client()) as accounting,
    ):
        with pytest.raises(RateLimitError):
            async with accounting.track("r", CONTEXT) as request:
                await request.begin(6)
        with pytest.raises(ContextLengthExceededError):
            async with accounting.track("r", CONTEXT):
                raise ContextLengthExceededError("Too long.")
        with pytest.raises(ContextLengthExceededError):
            await fail(
                accounting, ContextLengthExceededError("Too long.")
            )  # some engines find out only after `begin`
        await asyncio.sleep(0.1)

        assert not ledger.table.records
        assert spooled(home) == b""
        assert await ledger.tokens_left() == 5
        assert accounting.stats() == dict.fromkeys(accounting.stats(), 0)


async def begin_and_wait(accounting: RequestAccounting, tokens: int = 5) -> None:
    async with accounting.track("r", CONTEXT) as request:
        await request.begin(tokens)
        await asyncio.Event().wait()


async def test_request_rejected_by_a_full_queue_frees_its_tokens(home):
    async with (
        ledger_cluster(home, tokens_per_minute=100) as ledger,
        open_accounting(ledger.make_client()) as accounting,
    ):
        both = [asyncio.create_task(begin_and_wait(accounting)) for _ in range(2)]
        await until(lambda: accounting.stats()["waiting"] == 1)
        with pytest.raises(OverloadedError):
            await begin_and_wait(accounting, 50)
        await until(lambda: accounting.stats()["reservations"] == 2)
        await asyncio.sleep(0.05)
        assert await ledger.tokens_left() == 90
        for task in both:
            task.cancel()
        await asyncio.wait(both)
        await recorded(ledger, accounting)  # the request that had begun

        assert accounting.stats() == dict.fromkeys(accounting.stats(), 0)
        assert await ledger.tokens_left() == 100


async def test_request_cancelled_while_waiting_frees_its_tokens(home):
    async with (
        ledger_cluster(home, tokens_per_minute=100) as ledger,
        open_accounting(ledger.make_client()) as accounting,
    ):
        working = asyncio.create_task(begin_and_wait(accounting))
        await until(lambda: accounting.stats()["busy"] == 1)
        waiting = asyncio.create_task(begin_and_wait(accounting, 40))
        await until(lambda: accounting.stats()["waiting"] == 1)
        assert await ledger.tokens_left() == 55
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0.05)

        assert await ledger.tokens_left() == 95
        assert not ledger.table.records
        assert accounting.stats()["waiting"] == 0
        working.cancel()
        await asyncio.wait([working])


async def test_unused_tokens_are_freed_with_the_record(home):
    async with (
        ledger_cluster(home, tokens_per_minute=100) as ledger,
        open_accounting(ledger.make_client()) as accounting,
    ):
        async with accounting.track("r", CONTEXT) as request:
            await request.begin(90)
            assert await ledger.tokens_left() == 10
            request.usage = Usage(5, 6)
        await recorded(ledger, accounting)

        assert await ledger.tokens_left() == 89


async def test_spool_of_a_dead_replica_is_replayed_and_removed(home):
    theirs = [make_record(request_id="theirs", prompt_tokens=2) for _ in range(2)]
    path = write_orphan_spool(home / "spool", *map(to_spool_line, theirs), b'{"time_s":1,"req')
    async with (
        ledger_cluster(home, tokens_per_day=10) as ledger,
        open_accounting(ledger.make_client()) as accounting,
    ):
        ledger.table.records[theirs[0].id] = theirs[0]  # recorded, but never confirmed
        ledger.table.is_broken = True
        await until(lambda: accounting.stats()["unrecorded"] == 2)
        await asyncio.sleep(0.1)
        assert path.exists()
        ledger.table.is_broken = False
        await until(lambda: not path.exists())

        assert ledger.table.records.keys() == {record.id for record in theirs}
        assert accounting.stats()["unrecorded"] == 0


async def test_two_replicas_replay_a_spool_once(home):
    path = write_orphan_spool(home / "spool", to_spool_line(make_record()))
    async with (
        ledger_cluster(home) as ledger,
        open_accounting(ledger.make_client()) as one,
        open_accounting(ledger.make_client()) as other,
    ):
        await until(lambda: not path.exists())

        assert sum(ledger.table.groups) == 1
        assert one.stats()["unrecorded"] == other.stats()["unrecorded"] == 0


async def test_unreadable_spool_does_not_block_the_others(home, caplog):
    path = write_orphan_spool(home / "spool", to_spool_line(make_record()))
    (home / "spool" / "unreadable.jsonl").mkdir()
    async with ledger_cluster(home) as ledger, open_accounting(ledger.make_client()):
        await until(lambda: "a spool cannot be read" in caplog.text)
        await until(lambda: not path.exists())

        assert len(ledger.table.records) == 1


async def test_without_a_ledger_nothing_is_recorded_or_spooled(home):
    async def find_none() -> None:
        return None

    client = LedgerClient(find_none)
    async with open_accounting(client) as accounting:
        await until(lambda: client.has_ledger is False)
        async with accounting.track("r", STREAMED) as request:
            await request.begin(1)

        assert not (home / "spool").exists()
        assert accounting.stats() == dict.fromkeys(accounting.stats(), 0)


async def test_request_succeeds_when_its_record_cannot_be_spooled(home, caplog):
    (home / "spool").write_text("no folder")
    async with ledger_cluster(home) as ledger, open_accounting(ledger.make_client()) as accounting:
        async with accounting.track("r", STREAMED) as request:
            await request.begin(1)
        await recorded(ledger, accounting)

    assert "not kept on disk" in caplog.text


async def test_reservation_survives_a_restart_of_the_ledger(home):
    async with ledger_cluster(home, tokens_per_minute=100) as ledger:
        client = ledger.make_client()
        async with open_accounting(client) as accounting:
            async with accounting.track("r", CONTEXT) as request:
                await request.begin(60)
                await ledger.restart()
                await asyncio.sleep(0.6)  # longer than the grace of disconnected sessions
                with pytest.raises(RateLimitError):
                    await client.reserve("key", Amounts(tokens=50))
                request.usage = Usage(1, 1)
            await recorded(ledger, accounting)

            assert await ledger.tokens_left() == 98
