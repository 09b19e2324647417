import pytest

from api.errors import RateLimitError
from api.ports.rate_limits import Amounts
from api.ports.tenancy import Key, KeyLimits
from deployments.ingress.rate_limiter import LedgerLimiter
from deployments.ledger.client import LedgerClient
from tests.helpers.ledger_cluster import be_quick, rig

KEY = Key("key", "ann", "acme")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quick(monkeypatch)


async def test_a_place_is_one_request_and_is_free_again_once_released(tmp_path):
    async with rig(tmp_path, requests_per_minute=3, concurrent_requests=1) as it:
        link = await it.link()
        limiter = LedgerLimiter(lambda: link)
        place = await limiter.admit(KEY)
        assert place.headers["x-ratelimit-limit-requests"] == "3"
        assert place.headers["x-ratelimit-remaining-requests"] == "2"
        with pytest.raises(RateLimitError):
            await limiter.admit(KEY)
        place.release()
        place.release()
        again = await limiter.admit(KEY)

        assert again.headers["x-ratelimit-remaining-requests"] == "1"


async def test_images_that_were_not_drawn_are_not_counted(tmp_path):
    async with rig(tmp_path, images_per_minute=4) as it:
        link = await it.link()
        limiter = LedgerLimiter(lambda: link)
        place = await limiter.admit(KEY, images=4)
        with pytest.raises(RateLimitError):
            await limiter.admit(KEY, images=1)
        place.release(images=1)
        place = await limiter.admit(KEY, images=3)
        with pytest.raises(RateLimitError):
            await limiter.admit(KEY, images=1)


async def test_the_link_is_looked_up_with_each_request(tmp_path):
    """The limiter is built before there is one."""
    link: LedgerClient | None = None
    limiter = LedgerLimiter(lambda: link)
    async with rig(tmp_path, requests_per_minute=1) as it:
        link = await it.link()
        await limiter.admit(KEY)


async def test_tokens_are_left_to_the_replica_of_the_model(tmp_path):
    async with rig(tmp_path, tokens_per_minute=5) as it:
        link = await it.link()
        place = await LedgerLimiter(lambda: link).admit(KEY)
        held = await link.reserve("key", Amounts(tokens=5))

        assert it.limits == KeyLimits(tokens_per_minute=5)
        assert held.standing.tokens.remaining == 0
        assert place.headers["x-ratelimit-remaining-tokens"] == "5"
