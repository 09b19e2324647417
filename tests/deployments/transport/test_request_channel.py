"""Both ends of the request channel."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import zmq

from deployments.transport.peers import ChannelSettings
from deployments.transport.request_channel import LeasedRequest, RequestReceiver, RequestSender
from deployments.transport.token_messages import ReplyTo
from tests.helpers.token_channel import NO_LISTENER, TIMEOUT_S, Tap, until

LEASE = b"1" * 16
REPLY_TO = ReplyTo("ipc:///", b"s" * 16)
REMOTE_REPLY_TO = ReplyTo("ipc:///no-such-folder/socket tcp://10.0.0.2:1#key", b"s" * 16)
REQUEST = LeasedRequest("stream", b"request", REPLY_TO)


@pytest.fixture
async def receiver() -> AsyncIterator[RequestReceiver]:
    receiver = RequestReceiver(lambda: "127.0.0.1")
    yield receiver
    receiver.shut_down()


@pytest.fixture
async def sender() -> AsyncIterator[RequestSender]:
    sender = RequestSender(ChannelSettings(linger_ms=50))
    yield sender
    sender.shut_down()


def fail_if_lost() -> None:
    raise AssertionError("the replica was not lost")


def address_of(receiver: RequestReceiver) -> str:
    address = receiver.find_address(REPLY_TO)
    assert address is not None
    return address


async def test_request_arrives_at_the_lease_that_expects_it(
    receiver: RequestReceiver, sender: RequestSender
) -> None:
    following, other = receiver.expect(LEASE), receiver.expect(b"2" * 16)

    sender.open(address_of(receiver), LEASE, fail_if_lost).send(REQUEST)

    assert await asyncio.wait_for(following, TIMEOUT_S) == REQUEST
    assert not other.done()
    assert len(receiver) == 1


async def test_close_arrives_as_none(receiver: RequestReceiver, sender: RequestSender) -> None:
    following = receiver.expect(LEASE)

    sender.open(address_of(receiver), LEASE, fail_if_lost).send_close()

    assert await asyncio.wait_for(following, TIMEOUT_S) is None
    assert len(receiver) == 0


async def test_items_of_one_tick_are_one_message(sender: RequestSender, tap: Tap) -> None:
    first = sender.open(tap.address, LEASE, fail_if_lost)
    second = sender.open(tap.address, b"2" * 16, fail_if_lost)

    first.send(REQUEST)
    second.send_close()
    await asyncio.sleep(0)

    assert tap.next_message() == [
        (0, LEASE, "stream", b"request", REPLY_TO.address, REPLY_TO.stream_id),
        (1, b"2" * 16),
    ]
    assert not tap.has_more()


async def test_large_request_is_a_message_of_its_own(sender: RequestSender, tap: Tap) -> None:
    small = sender.open(tap.address, b"2" * 16, fail_if_lost)
    large = LeasedRequest("stream", bytes(100_000), REPLY_TO)

    small.send_close()
    sender.open(tap.address, LEASE, fail_if_lost).send(large)
    small.send_close()
    await asyncio.sleep(0)

    assert [len(tap.next_message()) for _ in range(3)] == [1, 1, 1]


async def test_items_with_an_unknown_lease_are_dropped(
    receiver: RequestReceiver, sender: RequestSender
) -> None:
    following = receiver.expect(LEASE)

    sender.open(address_of(receiver), b"2" * 16, fail_if_lost).send(REQUEST)

    await until(lambda: receiver.dropped == 1)
    assert not following.done()


async def test_items_of_a_forgotten_lease_are_dropped(
    receiver: RequestReceiver, sender: RequestSender
) -> None:
    receiver.expect(LEASE)
    receiver.forget(LEASE)

    sender.open(address_of(receiver), LEASE, fail_if_lost).send(REQUEST)

    await until(lambda: receiver.dropped == 1)
    assert len(receiver) == 0


async def test_second_request_before_the_lease_expects_it_is_dropped(
    receiver: RequestReceiver, sender: RequestSender
) -> None:
    following = receiver.expect(LEASE)
    writer = sender.open(address_of(receiver), LEASE, fail_if_lost)

    writer.send(REQUEST)
    writer.send(REQUEST)

    await until(lambda: receiver.dropped == 1)
    assert following.result() == REQUEST


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"not MessagePack",
        msgspec.msgpack.encode([[9, LEASE]]),
        msgspec.msgpack.encode([[0, LEASE, 1, 2, 3, 4]]),
        msgspec.msgpack.encode({"a": 1}),
        b"\x91\x96\x00\xc4\x01a\xa1\xff\xc4\x01a\xa1a\xc4\x01a",
        b"\x91\x93\x01\xc4\x01a" + b"\x91" * 100_000 + b"\x90",
    ],
    ids=["empty", "reserved", "text", "tag", "types", "object", "not UTF-8", "nested"],
)
async def test_message_of_another_form_is_dropped(
    receiver: RequestReceiver, sender: RequestSender, message: bytes
) -> None:
    following = receiver.expect(LEASE)
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.connect(address_of(receiver))
    socket.send(message)
    try:
        await until(lambda: receiver.dropped == 1)
    finally:
        context.destroy(linger=0)

    sender.open(address_of(receiver), LEASE, fail_if_lost).send(REQUEST)

    assert await asyncio.wait_for(following, TIMEOUT_S) == REQUEST


async def test_lost_replica_is_reported_to_its_leases_once(sender: RequestSender) -> None:
    receiver = RequestReceiver(lambda: "127.0.0.1")
    lost: list[int] = []
    following = receiver.expect(LEASE)
    writer = sender.open(address_of(receiver), LEASE, lambda: lost.append(1))
    sender.open(address_of(receiver), b"2" * 16, lambda: lost.append(2)).close()
    writer.send(REQUEST)
    await asyncio.wait_for(following, TIMEOUT_S)

    receiver.shut_down()

    await until(lambda: sender.peers == 0)
    assert lost == [1]


async def test_replica_that_does_not_answer_is_lost() -> None:
    sender = RequestSender(ChannelSettings(connect_timeout_s=0.05))
    lost: list[bool] = []

    sender.open(NO_LISTENER, LEASE, lambda: lost.append(True)).send(REQUEST)

    await until(lambda: lost)
    assert sender.peers == 0
    sender.shut_down()


async def test_ingress_replica_on_another_node_gets_the_nodes_address() -> None:
    receiver = RequestReceiver(lambda: "127.0.0.2")

    local, remote = [str(receiver.find_address(each)) for each in (REPLY_TO, REMOTE_REPLY_TO)]

    assert local.startswith("ipc://")
    assert " " not in local
    assert remote.startswith(f"{local} tcp://127.0.0.2:")
    assert receiver.find_address(REMOTE_REPLY_TO) == remote
    receiver.shut_down()


async def test_ingress_replica_of_this_node_that_has_gone_opens_no_port() -> None:
    def fail() -> str:
        raise AssertionError("a port was opened")

    receiver = RequestReceiver(fail)
    gone = ReplyTo("ipc:///no-such-folder/socket", b"s" * 16)

    assert receiver.find_address(gone) == receiver.find_address(REPLY_TO)
    receiver.shut_down()


async def test_node_without_an_address_has_none_until_it_has_one() -> None:
    hosts: Any = iter(["192.0.2.1", "127.0.0.2"])  # the first is for documents only (RFC 5737)
    receiver = RequestReceiver(lambda: next(hosts))

    addresses = [receiver.find_address(REMOTE_REPLY_TO) for _ in range(2)]

    assert addresses[0] is None
    assert " tcp://127.0.0.2:" in str(addresses[1])
    receiver.shut_down()
