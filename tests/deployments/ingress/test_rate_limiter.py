from dataclasses import replace

import pytest

from api.errors import RateLimitError
from api.ports.rate_limits import Amounts
from api.ports.tenancy import Key, KeyLimits
from deployments.ingress.rate_limiter import LedgerLimiter
from deployments.ledger.client import LedgerClient
from tests.helpers.ledger_cluster import ledger_cluster

KEY = Key("key", "ann", "acme")


async def test_admission_counts_one_request_and_release_frees_its_concurrency(tmp_path):
    async with ledger_cluster(tmp_path, requests_per_minute=3, concurrent_requests=1) as ledger:
        client = ledger.connect()
        limiter = LedgerLimiter(lambda: client)
        admission = await limiter.admit(KEY)
        assert admission.headers["x-ratelimit-limit-requests"] == "3"
        assert admission.headers["x-ratelimit-remaining-requests"] == "2"
        with pytest.raises(RateLimitError):
            await limiter.admit(KEY)
        admission.release()
        admission.release()
        again = await limiter.admit(KEY)

        assert again.headers["x-ratelimit-remaining-requests"] == "1"


async def test_images_that_were_not_generated_are_not_counted(tmp_path):
    async with ledger_cluster(tmp_path, images_per_minute=4) as ledger:
        client = ledger.connect()
        limiter = LedgerLimiter(lambda: client)
        admission = await limiter.admit(KEY, images=4)
        with pytest.raises(RateLimitError):
            await limiter.admit(KEY, images=1)
        admission.release(images=1)
        admission = await limiter.admit(KEY, images=3)
        with pytest.raises(RateLimitError):
            await limiter.admit(KEY, images=1)


async def test_pixel_steps_of_images_that_were_not_generated_are_not_counted(tmp_path):
    key = replace(KEY, limits=KeyLimits(pixel_steps_per_minute=100))
    async with ledger_cluster(tmp_path, pixel_steps_per_minute=100) as ledger:
        client = ledger.connect()
        limiter = LedgerLimiter(lambda: client)
        admission = await limiter.admit(key, images=4, pixel_steps=100)
        with pytest.raises(RateLimitError, match="pixel-steps per minute: limit 100, used 100"):
            await limiter.admit(key, images=1, pixel_steps=1)
        admission.release(images=1)
        await limiter.admit(key, images=1, pixel_steps=75)
        with pytest.raises(RateLimitError):
            await limiter.admit(key, images=1, pixel_steps=1)


async def test_request_of_more_pixel_steps_than_the_limit_never_fits(tmp_path):
    key = replace(KEY, limits=KeyLimits(pixel_steps_per_minute=100))
    async with ledger_cluster(tmp_path, pixel_steps_per_minute=100) as ledger:
        client = ledger.connect()
        with pytest.raises(RateLimitError, match="too large for pixel-steps per minute"):
            await LedgerLimiter(lambda: client).admit(key, images=1, pixel_steps=101)


async def test_client_is_looked_up_with_each_request(tmp_path):
    """The limiter is built before the client is."""
    client: LedgerClient | None = None
    limiter = LedgerLimiter(lambda: client)
    async with ledger_cluster(tmp_path, requests_per_minute=1) as ledger:
        client = ledger.connect()
        await limiter.admit(KEY)


async def test_tokens_are_not_reserved_by_the_ingress(tmp_path):
    async with ledger_cluster(tmp_path, tokens_per_minute=5) as ledger:
        client = ledger.connect()
        admission = await LedgerLimiter(lambda: client).admit(KEY)
        reservation = await client.reserve("key", Amounts(tokens=5))

        assert ledger.limits == KeyLimits(tokens_per_minute=5)
        assert reservation.status.tokens.remaining == 0
        assert admission.headers["x-ratelimit-remaining-tokens"] == "5"
