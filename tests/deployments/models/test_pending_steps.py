import asyncio

import pytest

from api.ports.images import Edit, ImageRequest
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.fakes import FakeDiffusionEngine
from deployments.engines.protocol import RequestProgress
from deployments.models.fair_queue import FairQueue
from deployments.models.pending_steps import PendingSteps

OPTIONS = DiffusionOptions(num_inference_steps=30, qualities={"low": 12}, strength=0.5)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (ImageRequest("r", "a dot"), 30),
        (ImageRequest("r", "a dot", n=4), 120),
        (ImageRequest("r", "a dot", quality="low"), 12),
        (ImageRequest("r", "a dot", quality="low", num_inference_steps=7), 7),
        (ImageRequest("r", "a dot", edit=Edit(b"")), 15),
        (ImageRequest("r", "a dot", edit=Edit(b"", None, 0.1), n=2), 6),
    ],
)
def test_request_is_counted_from_its_arrival(request_: ImageRequest, expected: int) -> None:
    steps = PendingSteps(OPTIONS)

    with steps.counting(request_, RequestProgress()):
        during = steps.total

    assert (during, steps.total) == (expected, 0)


def test_count_of_the_engine_replaces_the_estimate() -> None:
    steps, progress, left = PendingSteps(OPTIONS), RequestProgress(), [12]
    progress.count_steps_left = left.pop

    with steps.counting(ImageRequest("r", "a dot"), progress):
        assert steps.total == 12


def test_failed_request_is_no_longer_counted() -> None:
    steps = PendingSteps(OPTIONS)

    with (
        pytest.raises(ZeroDivisionError),
        steps.counting(ImageRequest("r", "a dot"), RequestProgress()),
    ):
        raise ZeroDivisionError

    assert steps.total == 0


class Queued(RequestProgress):
    """Waits for a slot, as `AccountedRequest` does."""

    def __init__(self, queue: FairQueue):
        super().__init__()
        self._queue = queue

    async def begin(self, tokens: int, size: int = 1) -> None:
        self._slot = self._queue.acquire("tenant", size=size)
        await self._slot.__aenter__()

    async def end(self) -> None:
        await self._slot.__aexit__(None, None, None)


async def test_waiting_requests_are_counted() -> None:
    engine, queue, steps = FakeDiffusionEngine(), FairQueue(1, 10), PendingSteps(OPTIONS)

    async def draw(number: int) -> None:
        request = ImageRequest(f"r{number}", "a dot", num_inference_steps=20)
        progress = Queued(queue)
        with steps.counting(request, progress):
            await engine.generate(request, progress)
            await progress.end()

    drawing = [asyncio.create_task(draw(number)) for number in range(3)]
    await asyncio.sleep(0)
    at_first = steps.total
    await drawing[0]
    after_one = steps.total
    drawing[2].cancel()
    await asyncio.wait(drawing)

    assert at_first == 60
    assert 20 < after_one <= 40
    assert steps.total == 0
