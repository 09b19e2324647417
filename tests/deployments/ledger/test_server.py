"""The ledger's end of its connections."""

import asyncio
import contextlib

import pytest

from api.errors import RateLimitError, UnavailableError
from api.ports.rate_limits import Amounts
from deployments.ledger.protocol import KeySet
from tests.helpers.event_loops import event_loop_policy  # noqa: F401  # a fixture
from tests.helpers.ledger_cluster import ledger_cluster, roundtrip, until

REQUEST = Amounts(requests=1, concurrent=1)


async def test_reservations_of_a_dead_replica_are_freed_after_the_grace_time(tmp_path):
    async with ledger_cluster(tmp_path, concurrent_requests=1) as ledger:
        dying, other = ledger.connect(), ledger.connect()
        await dying.reserve("key", REQUEST)
        with pytest.raises(RateLimitError):
            await other.reserve("key", REQUEST)
        dying.shut_down()
        await ledger.until_concurrent(0)
        await other.reserve("key", REQUEST)


async def test_reservations_of_a_replica_that_died_with_the_ledger_are_freed(tmp_path):
    async with ledger_cluster(tmp_path, concurrent_requests=1) as ledger:
        dying = ledger.connect()
        await dying.reserve("key", REQUEST)
        await ledger.kill()
        dying.shut_down()
        await ledger.start()

        assert await ledger.concurrent() == 1
        await ledger.until_concurrent(0)


async def test_request_waits_until_the_keys_are_published(tmp_path):
    async with ledger_cluster(tmp_path, requests_per_minute=1) as ledger:
        await ledger.kill()
        await ledger.start(knows_keys=False)
        client = ledger.connect()
        reserving = asyncio.create_task(client.reserve("key", REQUEST))
        await until(lambda: ledger.server.stats()["clients"] == 1)
        await asyncio.sleep(0.05)
        assert not reserving.done()
        ledger.server.publish(KeySet([], b"fingerprint"))
        await reserving
        with pytest.raises(RateLimitError):
            await client.reserve("key", REQUEST)


async def test_requests_are_refused_at_once_while_the_keys_cannot_be_read(tmp_path):
    async with ledger_cluster(tmp_path) as ledger:
        await ledger.kill()
        await ledger.start(knows_keys=False)
        client = ledger.connect()
        ledger.server.publish(None)
        with pytest.raises(UnavailableError):
            async with asyncio.timeout(0.5):
                await client.reserve("key", REQUEST)
        ledger.server.publish(KeySet([], b"fingerprint"))
        await client.reserve("key", REQUEST)


async def test_request_is_refused_for_now_when_the_limits_cannot_be_checked(tmp_path, monkeypatch):
    async def fail(*_) -> None:
        raise UnavailableError("Redis is away.")

    async with ledger_cluster(tmp_path, requests_per_minute=1) as ledger:
        client = ledger.connect()
        await roundtrip(client)
        with monkeypatch.context() as patch:
            patch.setattr(ledger.accounts, "reserve", fail)
            with pytest.raises(UnavailableError):
                await client.reserve("key", REQUEST)
        await client.reserve("key", REQUEST)


async def test_keys_reach_the_clients_that_want_them_on_every_change(tmp_path):
    async with ledger_cluster(tmp_path) as ledger:
        seen: list[KeySet] = []
        ledger.connect(on_keys=seen.append)
        ledger.connect()
        await until(lambda: len(seen) == 1)
        ledger.server.publish(KeySet([], b"other"))
        await until(lambda: len(seen) == 2)

        assert [each.pepper_fingerprint for each in seen] == [b"fingerprint", b"other"]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\1\xc1", b"\0\0\0\1\x90"])
async def test_client_without_a_valid_token_is_disconnected(tmp_path, data: bytes):
    async with ledger_cluster(tmp_path, requests_per_minute=1) as ledger:
        assert ledger.address
        reader, writer = await asyncio.open_connection(ledger.address.host, ledger.address.port)
        writer.write(data)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        client = ledger.connect()
        await client.reserve("key", REQUEST)

        assert ledger.server.stats()["clients"] == 1
