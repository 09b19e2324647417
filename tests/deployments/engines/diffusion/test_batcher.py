import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from api.errors import EngineError, InvalidRequestError
from api.ports.images import Lora
from deployments.engines.cancellable_thread import WorkCancelledError
from deployments.engines.diffusion.batcher import Batches, Canvas, Event, Recipe

RECIPE = Recipe("new", 8, 8, 4, 1.0)
PATIENCE_S = 5.0


class Painter:
    """Draws in steps that the test lets pass, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[Canvas]] = []
        self.has_begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.error: Exception | None = None
        self.bad_seed: int | None = None
        """Drawing this one fails, and all that are drawn with it."""
        self.bad_error: Exception = RuntimeError("bad seed")

    def draw(self, batch: Sequence[Canvas]) -> None:
        self.batches.append(list(batch))
        self.has_begun.release()
        self.go.acquire(timeout=PATIENCE_S)
        if self.error is not None:
            raise self.error
        if self.bad_seed in [canvas.seed for canvas in batch]:
            for canvas in batch:
                canvas.steps_done = 1
                canvas.tell_step("look" if canvas.is_looked_at else None)
            raise self.bad_error
        if not any(canvas.is_wanted for canvas in batch):
            raise WorkCancelledError
        for canvas in batch:
            canvas.steps_done = 1
            canvas.tell_step("look" if canvas.is_looked_at else None)
            canvas.tell(Event(canvas.index, 4, canvas.seed, is_final=True))

    @property
    def seeds(self) -> list[list[int]]:
        return [[canvas.seed for canvas in batch] for batch in self.batches]

    async def begun(self) -> None:
        assert await asyncio.to_thread(self.has_begun.acquire, timeout=PATIENCE_S)


@pytest.fixture
def painter() -> Painter:
    return Painter()


@pytest.fixture
async def batches(painter: Painter) -> AsyncIterator[Batches]:
    batches = Batches(painter.draw, 4, 8 * 8 * 4, 0.02)
    yield batches
    for _ in range(50):
        painter.go.release()
    batches.shut_down()


def canvas(seed: int, recipe: Recipe = RECIPE, index: int = 0) -> Canvas:
    return Canvas(index, recipe, "a dot", None, seed, is_watched=True)


async def draw(batches: Batches, *canvases: Canvas) -> list[int]:
    events = [event async for event in batches.draw(canvases)]
    return [event.picture for event in events if event.is_final]


def start(batches: Batches, *canvases: Canvas) -> "asyncio.Task[list[int]]":
    return asyncio.create_task(draw(batches, *canvases))


async def test_image_is_drawn_and_its_steps_are_told(painter: Painter, batches: Batches) -> None:
    painter.go.release()

    events = [event async for event in batches.draw([canvas(7)])]

    assert events == [Event(0, 1), Event(0, 4, 7, is_final=True)]


async def test_a_batch_that_makes_no_step_is_stalled_until_it_makes_one(
    painter: Painter, batches: Batches
) -> None:
    assert batches.stalled_s() == 0.0
    one = canvas(7)
    drawing = start(batches, one)
    await painter.begun()
    assert batches.stalled_s() == 0.0
    await asyncio.sleep(0.02)
    assert batches.stalled_s() > 0.01
    one.steps_done += 1
    assert batches.stalled_s() == 0.0
    await asyncio.sleep(0.02)
    assert batches.stalled_s() > 0.01

    painter.go.release()
    await drawing

    assert batches.stalled_s() == 0.0, "nothing is drawn"


async def test_the_next_batch_does_not_inherit_how_long_the_last_stood_still(
    painter: Painter, batches: Batches
) -> None:
    drawing = start(batches, canvas(1), canvas(2, replace(RECIPE, steps=5)))
    await painter.begun()
    batches.stalled_s()
    await asyncio.sleep(0.02)
    painter.go.release()
    await painter.begun()

    assert batches.stalled_s() == 0.0

    painter.go.release()
    await drawing


async def test_those_who_wait_are_drawn_together(painter: Painter, batches: Batches) -> None:
    first = start(batches, canvas(1))
    await painter.begun()
    others = [start(batches, canvas(seed)) for seed in (2, 3)]
    await asyncio.sleep(0.01)

    painter.go.release(2)

    assert await asyncio.gather(first, *others) == [[1], [2], [3]]
    assert painter.seeds == [[1], [2, 3]]


@pytest.mark.parametrize(
    "other",
    [
        replace(RECIPE, steps=5),
        replace(RECIPE, width_px=16),
        replace(RECIPE, guidance=2.0),
        replace(RECIPE, scheduler="DDIMScheduler"),
        replace(RECIPE, mode="redraw"),
        replace(RECIPE, strength=0.5),
        replace(RECIPE, has_negative=True),
        replace(RECIPE, loras=(Lora("ink"),)),
        replace(RECIPE, loras=(Lora("ink", 0.5),)),
    ],
)
async def test_other_recipes_are_drawn_apart(
    painter: Painter, batches: Batches, other: Recipe
) -> None:
    drawing = start(batches, canvas(1), canvas(2, other), canvas(3))
    await painter.begun()

    painter.go.release(2)
    await drawing

    assert painter.seeds == [[1, 3], [2]]


async def test_batch_is_never_larger_than_allowed(painter: Painter, batches: Batches) -> None:
    drawing = start(batches, *(canvas(seed, index=seed) for seed in range(10)))
    painter.go.release(3)

    assert sorted(await drawing) == list(range(10))
    assert list(map(len, painter.seeds)) == [4, 4, 2]


async def test_pixels_bound_a_batch_too(painter: Painter, batches: Batches) -> None:
    large = replace(RECIPE, width_px=16)
    drawing = start(batches, *(canvas(seed, large, seed) for seed in range(3)))
    painter.go.release(2)
    await drawing

    assert list(map(len, painter.seeds)) == [2, 1]


async def test_image_over_the_bound_is_drawn_alone(painter: Painter, batches: Batches) -> None:
    huge = replace(RECIPE, width_px=800)
    drawing = start(batches, canvas(0, huge), canvas(1, huge))
    painter.go.release(2)
    await drawing

    assert painter.seeds == [[0], [1]]


async def test_who_leaves_while_waiting_is_not_drawn(painter: Painter, batches: Batches) -> None:
    first = start(batches, canvas(1))
    await painter.begun()
    second, third = start(batches, canvas(2)), start(batches, canvas(3))
    await asyncio.sleep(0.01)

    second.cancel()
    await asyncio.wait({second})
    painter.go.release(2)
    await asyncio.gather(first, third)

    assert painter.seeds == [[1], [3]]
    assert batches.waiting == 0


async def test_who_leaves_while_being_drawn_is_marked(painter: Painter, batches: Batches) -> None:
    one, two = start(batches, canvas(1)), None
    await painter.begun()
    two, three = start(batches, canvas(2)), start(batches, canvas(3))
    await asyncio.sleep(0.01)
    painter.go.release()
    await painter.begun()

    two.cancel()
    await asyncio.wait({two})

    assert [each.is_wanted for each in painter.batches[1]] == [False, True]
    painter.go.release()
    assert await asyncio.gather(one, three) == [[1], [3]]


async def test_when_all_have_left_the_next_is_drawn(painter: Painter, batches: Batches) -> None:
    one = start(batches, canvas(1))
    await painter.begun()
    one.cancel()
    await asyncio.wait({one})

    painter.go.release(2)

    assert await draw(batches, canvas(2)) == [2]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("out of memory"), EngineError),
        (InvalidRequestError("no"), InvalidRequestError),
    ],
)
async def test_failure_reaches_all_of_the_batch_and_no_other(
    painter: Painter, batches: Batches, error: Exception, kind: type[Exception]
) -> None:
    painter.error = error
    painter.go.release()
    with pytest.raises(kind):
        await draw(batches, canvas(1))

    painter.error = None
    painter.go.release()

    assert await draw(batches, canvas(2)) == [2]


async def test_image_that_cannot_be_drawn_fails_alone(painter: Painter, batches: Batches) -> None:
    painter.bad_seed = 3
    first = start(batches, canvas(1))
    await painter.begun()
    others = [start(batches, canvas(seed)) for seed in (2, 3, 4)]
    await asyncio.sleep(0.01)

    painter.go.release(10)
    drawn = await asyncio.gather(first, *others, return_exceptions=True)

    assert [drawn[0], drawn[1], drawn[3]] == [[1], [2], [4]]
    assert isinstance(drawn[2], EngineError)
    assert painter.seeds == [[1], [2, 3, 4], [2], [3], [4]]


async def test_refusal_of_one_image_is_told_to_its_request_alone(
    painter: Painter, batches: Batches
) -> None:
    painter.bad_seed = 3
    painter.bad_error = InvalidRequestError("no", param="image")
    first = start(batches, canvas(1))
    await painter.begun()
    others = [start(batches, canvas(seed)) for seed in (2, 3)]
    await asyncio.sleep(0.01)

    painter.go.release(10)
    drawn = await asyncio.gather(first, *others, return_exceptions=True)

    assert drawn[:2] == [[1], [2]]
    assert isinstance(drawn[2], InvalidRequestError)
    assert drawn[2].param == "image"


async def test_who_has_left_is_not_drawn_again(painter: Painter, batches: Batches) -> None:
    painter.bad_seed = 2
    first = start(batches, canvas(1))
    await painter.begun()
    bad, leaver, other = (start(batches, canvas(seed)) for seed in (2, 3, 4))
    await asyncio.sleep(0.01)
    painter.go.release()
    await first
    await painter.begun()

    leaver.cancel()
    await asyncio.wait({leaver})
    painter.go.release(10)
    await asyncio.wait({bad, other})

    assert painter.seeds == [[1], [2, 3, 4], [2], [4]]
    assert await other == [4]


async def test_steps_and_previews_are_told_once_though_drawn_twice(
    painter: Painter, batches: Batches
) -> None:
    painter.bad_seed = 3
    looking = replace(canvas(2), preview_steps=frozenset({1}))
    painter.go.release(10)

    async def watch() -> list[Event]:
        return [event async for event in batches.draw([looking])]

    events, _ = await asyncio.gather(watch(), draw(batches, canvas(3)), return_exceptions=True)

    assert painter.seeds == [[2, 3], [2], [3]]
    assert events == [Event(0, 1, "look"), Event(0, 4, 2, is_final=True)]


async def test_those_of_the_last_batch_are_waited_for(painter: Painter, batches: Batches) -> None:
    painter.go.release(2)
    await draw(batches, canvas(1), canvas(2, index=1))

    first = start(batches, canvas(3))
    await asyncio.sleep(0.005)
    second = start(batches, canvas(4))
    await asyncio.gather(first, second)

    assert painter.seeds == [[1, 2], [3, 4]]


async def test_nobody_is_waited_for_longer_than_the_window(
    painter: Painter, batches: Batches
) -> None:
    painter.go.release(3)
    await draw(batches, canvas(1), canvas(2, index=1))

    await draw(batches, canvas(3))
    await draw(batches, canvas(4))

    assert painter.seeds == [[1, 2], [3], [4]]


async def test_steps_that_nobody_watches_are_not_told(painter: Painter, batches: Batches) -> None:
    painter.go.release()
    alone = canvas(1)
    alone.is_watched = False

    events = [event async for event in batches.draw([alone])]

    assert [event.is_final for event in events] == [True]


async def test_previews_are_told_to_those_who_watch_nothing_else(
    painter: Painter, batches: Batches
) -> None:
    painter.go.release()
    alone = canvas(1)
    alone.is_watched, alone.preview_steps = False, frozenset({1})

    events = [event async for event in batches.draw([alone])]

    assert [event.picture for event in events] == ["look", 1]
