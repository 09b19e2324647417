"""The replica's end of leases, called as Serve calls it; no Ray is started."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from api.errors import EngineError, InvalidRequestError, ReplicaLostError
from api.ports.stream import TextDelta
from deployments.models.leases import Leases
from deployments.transport.request_channel import LeasedRequest, RequestSender
from deployments.transport.stream_reader import StreamReader
from deployments.transport.token_channel import Receiver, StreamWriter
from deployments.transport.token_messages import LeasedResult, StreamEnd
from tests.helpers.token_channel import TIMEOUT_S, UNMERGED, collect, from_another_node, until

MAX_RESULT_BYTES = 1000


@dataclass
class Question:
    """A request; `replies` are sent as deltas before the result."""

    text: str
    replies: list[str] = field(default_factory=list)


async def echo(question: Question, writer: StreamWriter) -> str:
    with writer:
        for reply in question.replies:
            writer.send(TextDelta(0, reply))
        return question.text


async def fail(question: Question, writer: StreamWriter) -> str:
    raise EngineError(question.text)


async def hang(question: Question, writer: StreamWriter) -> str:
    with writer:
        writer.send(TextDelta(0, "begun"))
        await asyncio.get_running_loop().create_future()
    return ""


METHODS = {"echo": (Question, echo), "fail": (Question, fail), "hang": (Question, hang)}


class Caller:
    """One lease, as an ingress replica uses it."""

    def __init__(self, leases: Leases, receiver: Receiver) -> None:
        self.id = secrets.token_bytes(16)
        self.sender = RequestSender()
        self._leases = leases
        self._receiver = receiver
        self.call: asyncio.Task[StreamEnd[Any] | None]
        self.inbox = ""

    def begin(self, method: str, question: Question) -> StreamReader:
        reader = self._receiver.open()
        serving = self._leases.serve(self.id, method, question, reader.reply_to)
        self.call = asyncio.create_task(serving)
        return reader

    def follow(self, method: str, request: bytes) -> StreamReader:
        reader = self._receiver.open()
        writer = self.sender.open(self.inbox, self.id, lambda: None)
        writer.send(LeasedRequest(method, request, reader.reply_to))
        return reader

    def close(self) -> None:
        self.sender.open(self.inbox, self.id, lambda: None).send_close()

    async def end(self, reader: StreamReader) -> LeasedResult:
        """Wait for the result of a request."""
        await until(lambda: reader.end is not None or self.call.done())
        assert reader.end is not None, self.call
        self.inbox = reader.end.inbox
        return reader.end


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver(settings=UNMERGED)
    yield receiver
    receiver.shut_down()


@pytest.fixture
async def leases() -> AsyncIterator[Leases]:
    leases = Leases(METHODS, lambda: "127.0.0.1", MAX_RESULT_BYTES)
    yield leases
    leases.shut_down()


@pytest.fixture
async def caller(leases: Leases, receiver: Receiver) -> AsyncIterator[Caller]:
    caller = Caller(leases, receiver)
    yield caller
    caller.call.cancel()
    await asyncio.wait({caller.call})
    caller.sender.shut_down()


def encode(question: Question) -> bytes:
    return msgspec.msgpack.encode(question)


async def test_first_request_is_answered_and_the_call_stays_open(
    caller: Caller, leases: Leases
) -> None:
    reader = caller.begin("echo", Question("a", ["x", "y"]))
    end = await caller.end(reader)

    assert (msgspec.msgpack.decode(end.result), end.deltas_sent) == ("a", 2)
    assert await collect(reader, 2) == [TextDelta(0, "x"), TextDelta(0, "y")]
    assert not caller.call.done()
    assert leases.stats() == {"streams": 0, "leases": 1, "sockets": 1}


async def test_further_requests_are_answered_by_the_same_call(caller: Caller) -> None:
    await caller.end(caller.begin("echo", Question("a")))

    answers = []
    for text in "bcd":
        reader = caller.follow("echo", encode(Question(text, ["x"])))
        answers.append(msgspec.msgpack.decode((await caller.end(reader)).result))

    assert answers == ["b", "c", "d"]
    assert not caller.call.done()


async def test_closed_lease_ends_its_call(caller: Caller, leases: Leases) -> None:
    await caller.end(caller.begin("echo", Question("a")))

    caller.close()

    assert await asyncio.wait_for(caller.call, TIMEOUT_S) is None
    assert leases.stats() == {"streams": 0, "leases": 0, "sockets": 1}


async def test_error_is_the_error_of_the_call_and_ends_the_lease(
    caller: Caller, leases: Leases
) -> None:
    await caller.end(caller.begin("echo", Question("a")))

    reader = caller.follow("fail", encode(Question("broken")))

    with pytest.raises(EngineError, match="broken"):
        await asyncio.wait_for(caller.call, TIMEOUT_S)
    assert reader.end is None
    assert leases.stats()["streams"] == leases.stats()["leases"] == 0


async def test_large_result_is_the_result_of_the_call(caller: Caller, leases: Leases) -> None:
    text = "a" * (MAX_RESULT_BYTES + 1)

    reader = caller.begin("echo", Question(text, ["x"]))

    assert await asyncio.wait_for(caller.call, TIMEOUT_S) == StreamEnd(text, 1)
    assert reader.end is None
    assert leases.stats()["leases"] == 0


async def test_answer_that_would_be_lost_on_its_way_is_refused(receiver: Receiver) -> None:
    leases = Leases(METHODS, lambda: "127.0.0.1", max_result_bytes=10, max_answer_bytes=100)
    reader = receiver.open()

    with pytest.raises(InvalidRequestError, match="fewer or smaller"):
        await leases.serve(b"1" * 16, "echo", Question("a" * 200), reader.reply_to)

    assert leases.stats() == {"streams": 0, "leases": 0, "sockets": 1}
    leases.shut_down()


async def test_result_is_the_calls_if_no_request_can_follow(receiver: Receiver) -> None:
    leases = Leases(METHODS, lambda: "192.0.2.1")  # not an address of this machine
    receiver.listen_at("127.0.0.2")
    reader = receiver.open()
    elsewhere = replace(reader.reply_to, address=from_another_node(reader.reply_to.address))

    end = await leases.serve(b"1" * 16, "echo", Question("a"), elsewhere)

    assert end == StreamEnd("a", 0)
    leases.shut_down()


@pytest.mark.parametrize(
    ("method", "request_"),
    [("unknown", encode(Question("a"))), ("echo", b"\xc1"), ("echo", b"\x81\xa4text\x01")],
    ids=["method", "encoding", "type"],
)
async def test_request_of_another_version_fails_the_call(
    caller: Caller, method: str, request_: bytes
) -> None:
    await caller.end(caller.begin("echo", Question("a")))

    caller.follow(method, request_)

    with pytest.raises(EngineError, match="failed to answer"):
        await asyncio.wait_for(caller.call, TIMEOUT_S)


@pytest.mark.parametrize("is_first", [True, False])
async def test_cancelled_call_cancels_its_running_request(
    caller: Caller, leases: Leases, is_first: bool
) -> None:
    if is_first:
        reader = caller.begin("hang", Question("a"))
    else:
        await caller.end(caller.begin("echo", Question("a")))
        reader = caller.follow("hang", encode(Question("b")))
    await until(lambda: reader.received)
    during = leases.stats()["streams"]

    caller.call.cancel()
    await asyncio.wait({caller.call})

    assert (during, caller.call.cancelled()) == (1, True)
    assert leases.stats()["streams"] == 0


async def test_cancelled_call_of_an_idle_lease_is_forgotten(caller: Caller, leases: Leases) -> None:
    await caller.end(caller.begin("echo", Question("a")))

    caller.call.cancel()
    await asyncio.wait({caller.call})

    assert leases.stats() == {"streams": 0, "leases": 0, "sockets": 1}


@pytest.mark.parametrize("method", ["hang", "echo"], ids=["running", "idle"])
async def test_lost_ingress_replica_ends_its_leases(leases: Leases, method: str) -> None:
    lost = Receiver(settings=UNMERGED)
    reader = lost.open()
    call = asyncio.create_task(leases.serve(b"1" * 16, method, Question("a"), reader.reply_to))
    await until(lambda: reader.received or reader.end)

    lost.shut_down()

    with pytest.raises(ReplicaLostError):
        await asyncio.wait_for(call, TIMEOUT_S)
    assert leases.stats() == {"streams": 0, "leases": 0, "sockets": 0}


async def test_ingress_replica_lost_during_a_request_without_deltas_ends_it(
    leases: Leases, receiver: Receiver
) -> None:
    """Its writer is entered only after the peer is gone."""
    entered, is_gone = asyncio.Event(), asyncio.Event()

    async def wait(question: Question, writer: StreamWriter) -> str:
        entered.set()
        await is_gone.wait()
        return await echo(question, writer)

    late = Leases({"wait": (Question, wait)}, lambda: "127.0.0.1")
    lost = Receiver()
    reply_to = lost.open().reply_to
    call = asyncio.create_task(late.serve(b"1" * 16, "wait", Question("a"), reply_to))
    await entered.wait()
    await until(lambda: late.stats()["sockets"] == 1)
    lost.shut_down()
    await until(lambda: late.stats()["sockets"] == 0)

    is_gone.set()

    with pytest.raises(ReplicaLostError):
        await asyncio.wait_for(call, TIMEOUT_S)
    late.shut_down()
