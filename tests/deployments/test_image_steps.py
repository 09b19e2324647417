import asyncio

import pytest

from api.backends import Edit, ImageRequest
from api.generation import Delta, Extra, Sketch
from deployments.config import DiffusionOptions
from deployments.engines.fake_engines import FakeDiffusionEngine
from deployments.fair_queue import FairQueue
from deployments.image_steps import OutstandingSteps
from deployments.work import Work

OPTIONS = DiffusionOptions(num_inference_steps=30, qualities={"low": 12}, strength=0.5)


def step(number: int, total: int, index: int = 0) -> Delta:
    return Delta(index, "", extra=Extra(sketch=Sketch(number, total, b"")))


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

    with steps.counting(request_):
        during = steps.total

    assert (during, steps.total) == (expected, 0)


def test_steps_that_are_taken_count_no_more() -> None:
    steps = OutstandingSteps(OPTIONS)

    with steps.counting(ImageRequest("r", "a dot", n=2)) as note:
        lefts = []
        for delta in (step(1, 30), step(1, 30, index=1), step(30, 30), step(29, 30, index=1)):
            note(delta)
            lefts.append(steps.total)

    assert lefts == [59, 58, 29, 1]


def test_engine_knows_better_how_many_there_are() -> None:
    steps = OutstandingSteps(OPTIONS)

    with steps.counting(ImageRequest("r", "a dot")) as note:
        note(step(1, 12))
        left = steps.total

    assert left == 11


def test_progress_is_passed_on() -> None:
    seen: list[Delta] = []

    with OutstandingSteps(OPTIONS).counting(ImageRequest("r", "a dot"), seen.append) as note:
        note(step(1, 12))
        note(Delta(0, "text"))

    assert seen == [step(1, 12), Delta(0, "text")]


def test_failure_leaves_nothing_behind() -> None:
    steps = OutstandingSteps(OPTIONS)

    def fail() -> None:
        with steps.counting(ImageRequest("r", "a dot")) as note:
            note(step(3, 12))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert steps.total == 0


class Queued(Work):
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
        with steps.counting(request) as note:
            work = Queued(queue)
            await engine.generate(request, work, note)
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
