import asyncio

import pytest

from api.ports.images import Edit, ImageRequest
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.fakes import FakeDiffusionEngine
from deployments.engines.protocol import RequestProgress
from deployments.models.fair_queue import FairQueue
from deployments.models.pending_steps import OutstandingSteps

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
    steps = OutstandingSteps(OPTIONS)

    with steps.counting(request_, RequestProgress()):
        during = steps.total

    assert (during, steps.total) == (expected, 0)


def test_engine_knows_better_how_many_there_are() -> None:
    steps, work, left = OutstandingSteps(OPTIONS), RequestProgress(), [12]
    work.count_steps_left = left.pop

    with steps.counting(ImageRequest("r", "a dot"), work):
        assert steps.total == 12


def test_failure_leaves_nothing_behind() -> None:
    steps = OutstandingSteps(OPTIONS)

    with (
        pytest.raises(ZeroDivisionError),
        steps.counting(ImageRequest("r", "a dot"), RequestProgress()),
    ):
        raise ZeroDivisionError

    assert steps.total == 0


class Queued(RequestProgress):
    """Waits for its turn, as the desk's does."""

    def __init__(self, queue: FairQueue):
        super().__init__()
        self._queue = queue

    async def begin(self, tokens: int, size: int = 1) -> None:
        self._turn = self._queue.turn("tenant", size=size)
        await self._turn.__aenter__()

    async def end(self) -> None:
        await self._turn.__aexit__(None, None, None)


async def test_requests_that_wait_for_their_turn_are_counted_too() -> None:
    engine, queue, steps = FakeDiffusionEngine(), FairQueue(1, 10), OutstandingSteps(OPTIONS)

    async def draw(number: int) -> None:
        request = ImageRequest(f"r{number}", "a dot", num_inference_steps=20)
        work = Queued(queue)
        with steps.counting(request, work):
            await engine.generate(request, work)
            await work.end()

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
