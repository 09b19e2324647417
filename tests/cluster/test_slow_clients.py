"""Clients that close half of a connection, send nothing or do not read, beside those that do."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import psutil
import pytest

from tests.helpers.service import Service
from tests.helpers.streams import read_all

pytestmark = pytest.mark.cluster

IDLE, UNREAD = 2000, 200
WORD = "x" * 10_000
"""A token of the answer."""
UNREAD_TOKENS = 60
MEMORY_OF_A_STREAM_MIB = 1.5
"""An answer that is not read is kept, as text and as events, until its last token: 0.6 MB."""


def request(service: Service, **members: object) -> bytes:
    body = json.dumps({"model": "echo", "prompt": "a b c", **members}).encode()
    lines = [
        "POST /v1/completions HTTP/1.1",
        "host: triptych",
        f"authorization: Bearer {service.key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextmanager
def connections(service: Service, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            connection = stack.enter_context(closing(socket.socket()))
            opened.append(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(20)
            connection.connect(("127.0.0.1", service.port))
            connection.sendall(sent)
        yield opened


def memory_mib(service: Service) -> float:
    found = 0
    for pid in service.replica_pids()["ingress"] + service.replica_pids()["echo"]:
        found += psutil.Process(pid).memory_full_info().uss
    return found / 2**20


async def check_fast_readers(service: Service) -> None:
    results = await read_all(service, [{"max_tokens": 20}] * 3)

    assert all(result.is_complete(20) for result in results)


@pytest.mark.parametrize("is_stream", [False, True])
def test_client_that_closes_its_half_has_left_and_is_told_so(
    service: Service, is_stream: bool
) -> None:
    """Nothing else tells a client that has left, whose work must stop."""
    with connections(service, 1, request(service, max_tokens=20, stream=is_stream)) as (client,):
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65_536), b""))

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"the client closed its side" in answer
    assert b"[DONE]" not in answer


async def test_idle_connections_hinder_nobody(service: Service) -> None:
    with connections(service, IDLE, b""):
        await check_fast_readers(service)


async def test_unread_streams_take_little_memory_and_hinder_nobody(service: Service) -> None:
    before_mib = memory_mib(service)
    sent = request(service, prompt=WORD, max_tokens=UNREAD_TOKENS, stream=True)
    with connections(service, UNREAD, sent):
        await check_fast_readers(service)
        await asyncio.sleep(5)  # by now all tokens have been made
        more_mib = memory_mib(service) - before_mib
    print(f"{more_mib:.0f} MiB more")

    assert more_mib < UNREAD * MEMORY_OF_A_STREAM_MIB
