import asyncio

import pytest
from starlette.types import Message

from api.http.sse import COMMENT, EventStream
from tests.helpers.asgi import Response


class SentEvents:
    """An event stream, and the messages that it has sent."""

    def __init__(self) -> None:
        self.response = Response()
        self.events = EventStream(self._send)

    async def _send(self, message: Message) -> None:
        self.response.messages.append(message)


async def test_nothing_is_sent_before_the_first_event() -> None:
    sent = SentEvents()

    assert sent.response.messages == []
    assert not sent.events.is_started


async def test_first_event_starts_the_response() -> None:
    sent = SentEvents()

    await sent.events.write([(None, b"1")])

    assert sent.events.is_started
    assert sent.response.status == 200
    assert sent.response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert sent.response.headers["cache-control"] == "no-cache"
    assert not sent.response.is_ended


async def test_response_starts_once() -> None:
    sent = SentEvents()

    await sent.events.write([(None, b"1")])
    await sent.events.write([(None, b"2")])

    assert [message["type"] for message in sent.response.messages] == [
        "http.response.start",
        "http.response.body",
        "http.response.body",
    ]


async def test_event_is_a_data_line_and_a_blank_line() -> None:
    sent = SentEvents()

    await sent.events.write([(None, b'{"a":1}')])

    assert sent.response.chunks == [b'data: {"a":1}\n\n']


async def test_several_events_are_one_send() -> None:
    sent = SentEvents()

    await sent.events.write([(None, b"1"), (None, b"2"), (None, b"3")])

    assert sent.response.chunks == [b"data: 1\n\ndata: 2\n\ndata: 3\n\n"]


async def test_no_events_are_no_send() -> None:
    sent = SentEvents()

    await sent.events.write([])

    assert sent.response.messages == []


async def test_named_event_has_a_line_for_its_name() -> None:
    sent = SentEvents()

    await sent.events.write([("done", b"{}")])

    assert sent.response.chunks == [b"event: done\ndata: {}\n\n"]


async def test_comment_is_a_line_that_clients_skip() -> None:
    sent = SentEvents()

    await sent.events.write([(COMMENT, b"step 1 of 2"), (None, b"1")])

    assert sent.response.chunks == [b": step 1 of 2\n\ndata: 1\n\n"]


async def test_last_events_end_the_response_in_the_same_send() -> None:
    sent = SentEvents()

    await sent.events.write([(None, b"1")])
    await sent.events.write([(None, b"2")], is_last=True)

    assert sent.response.events() == [1, 2]
    assert sent.response.is_ended
    assert len(sent.response.messages) == 3


async def test_end_without_events_is_sent() -> None:
    sent = SentEvents()

    await sent.events.write([], is_last=True)

    assert sent.response.events() == []
    assert sent.response.is_ended


async def test_pushed_events_are_sent_at_once() -> None:
    sent = SentEvents()

    assert sent.events.push([(None, b"1")]) is None

    assert sent.response.events() == [1]


async def test_push_to_a_client_that_reads_slowly_returns_what_to_await() -> None:
    response, can_write = Response(), asyncio.Event()

    async def send(message: Message) -> None:
        await can_write.wait()
        response.messages.append(message)

    rest = EventStream(send).push([(None, b"1")])
    assert rest is not None
    assert response.messages == []

    can_write.set()
    await rest
    assert response.events() == [1]


async def test_error_of_a_push_is_raised_at_once() -> None:
    async def send(message: Message) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        EventStream(send).push([(None, b"1")])


async def test_events_are_sent_without_middleware() -> None:
    outer, inner = Response(), Response()

    async def send_outer(message: Message) -> None:
        outer.messages.append(message)

    async def send_inner(message: Message) -> None:
        inner.messages.append(message)

    events = EventStream(send_inner, send_outer)
    await events.write([(None, b"1")])
    await events.write([], is_last=True)

    assert [message["type"] for message in inner.messages] == ["http.response.start"]
    assert [message["body"] for message in outer.messages] == [
        b"data: 1\n\n",
        b"",
    ]
