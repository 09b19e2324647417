"""Images of many requests, drawn together where they can be: one batch at a time, in a thread.

Images of one recipe form a batch. The oldest image that waits decides which recipe is next, so none
is passed over, and nothing waits for a batch to be full. Only those who were drawn together a
moment ago are waited for, and only for a window: they are likely to ask again.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from api.errors import ApiError, EngineError
from api.ports.images import Lora
from deployments.engines.cancellable_thread import CancellableThread, Cancellation, WorkCancelledError

logger = logging.getLogger(__name__)

Mode = Literal["new", "redraw", "inpaint"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What images must have in common to be drawn together."""

    mode: Mode
    width_px: int
    height_px: int
    steps: int
    guidance: float | None
    """None if the model has no use for it."""
    true_cfg: float | None = None
    """How strongly the negative prompt is kept away from, where that is apart from `guidance`."""
    scheduler: str | None = None
    strength: float = 1.0
    loras: tuple[Lora, ...] = ()
    """By name, so that their order makes no difference."""
    has_negative: bool = False
    """Some pipelines treat no negative prompt unlike an empty one."""


@dataclass(frozen=True, slots=True)
class Event:
    """What has become of one image: `picture` is (H, W, 3) uint8 RGB, if there is one to see."""

    index: int
    step: int
    picture: Any = None
    is_final: bool = False


@dataclass(slots=True, eq=False)
class Canvas:
    """One image: what to draw, and how far it is."""

    index: int
    recipe: Recipe
    prompt: str
    negative_prompt: str | None
    seed: int
    image: Any = None
    """What to begin with, a PIL image of the recipe's size."""
    mask: Any = None
    """Where to draw, white on black."""
    preview_steps: frozenset[int] = frozenset()
    """After which steps somebody wants to look, counted from 1."""
    is_watched: bool = False
    """Whether somebody wants to hear of the other steps too."""
    steps_done: int = 0
    steps_told: int = 0
    """What is drawn a second time is behind this for a while."""
    is_wanted: bool = True
    """False once nobody waits for it: read by the thread between two steps."""
    tell: Callable[[Event | BaseException], object] = field(default=lambda event: None)
    """From any thread."""

    @property
    def is_looked_at(self) -> bool:
        """Whether somebody wants to see it as it is after this step, and has not yet."""
        return self.steps_done in self.preview_steps and self.steps_done > self.steps_told

    def tell_step(self, picture: Any = None) -> None:
        """Tell those who want to know how far it is, unless it was as far before."""
        if self.steps_done > self.steps_told:
            self.steps_told = self.steps_done
            if not self.is_watched and picture is None:
                return  # to wake the event loop takes time from the next step
            self.tell(Event(self.index, self.steps_done, picture))


Draw = Callable[[Sequence[Canvas]], None]
"""Draws all, and tells each canvas; leaves out those that are not wanted any more."""


class Batches:
    """Takes images, and has them drawn in a thread of its own."""

    def __init__(self, draw: Draw, max_images: int, max_pixels: int, window_s: float) -> None:
        """Draw by `draw`, so many images and pixels at once.

        Args:
            draw: runs in the thread.
            max_images: of a batch.
            max_pixels: of a batch; one image may have more.
            window_s: how long those are waited for who were in the last batch.
        """
        self._draw = draw
        self._max_images = max_images
        self._max_pixels = max_pixels
        self._window_s = window_s
        self._worker = CancellableThread("diffusion")
        self._waiting: deque[Canvas] = deque()
        self._arrival = asyncio.Event()
        self._company = 0
        self._drawing: Sequence[Canvas] = ()
        self._begun = 0
        self._mark = (0, 0)
        self._moved_s = 0.0
        self._running: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Images that wait."""
        return len(self._waiting)

    def stalled_s(self) -> float:
        """For how long the batch that is drawn has made no step, as far as earlier calls saw."""
        now_s = time.monotonic()
        mark = (self._begun, sum(canvas.steps_done for canvas in self._drawing))
        if not self._drawing or mark != self._mark:
            self._mark, self._moved_s = mark, now_s
        return now_s - self._moved_s

    async def draw(self, canvases: Sequence[Canvas]) -> AsyncGenerator[Event]:
        """Draw the images of one request; closing the iterator leaves the batch.

        Raises:
            ApiError: one of them cannot be drawn.
        """
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        for canvas in canvases:
            canvas.tell = lambda event: loop.call_soon_threadsafe(news.put_nowait, event)
        self._add(canvases)
        unfinished = len(canvases)
        try:
            while unfinished:
                event = await news.get()
                if isinstance(event, BaseException):
                    raise event
                unfinished -= event.is_final
                yield event
        finally:
            for canvas in canvases:
                canvas.is_wanted = False
            self._waiting = deque(canvas for canvas in self._waiting if canvas.is_wanted)

    def shut_down(self) -> None:
        """Take no more work."""
        if self._running is not None:
            self._running.cancel()
        self._worker.shut_down()

    def _add(self, canvases: Sequence[Canvas]) -> None:
        self._waiting.extend(canvases)
        self._arrival.set()
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Draw until nothing waits."""
        self._arrival = asyncio.Event()
        while self._waiting:
            await self._gather()
            batch = self._pick()
            if batch:
                await self._draw_batch(batch)
                self._company = len(batch) + len(self._waiting)

    async def _gather(self) -> None:
        """Let those come who have just been here; a single client is never waited for."""
        expected = min(self._company, self._max_images)
        try:
            async with asyncio.timeout(self._window_s):
                while 0 < len(self._waiting) < expected:
                    self._arrival.clear()
                    await self._arrival.wait()
        except TimeoutError:
            return

    def _pick(self) -> list[Canvas]:
        """Take out the oldest image, and those that go with it."""
        batch: list[Canvas] = []
        rest: deque[Canvas] = deque()
        for canvas in self._waiting:
            (batch if self._fits(canvas, batch) else rest).append(canvas)
        self._waiting = rest
        return batch

    def _fits(self, canvas: Canvas, batch: Sequence[Canvas]) -> bool:
        if not batch:
            return True
        recipe = batch[0].recipe
        pixels = recipe.width_px * recipe.height_px * (len(batch) + 1)
        has_room = len(batch) < self._max_images and pixels <= self._max_pixels
        return has_room and canvas.recipe == recipe

    async def _draw_batch(self, batch: Sequence[Canvas]) -> None:
        """Draw them together; if that fails, each by itself, so that only the cause fails."""
        failure = await self._try_to_draw(batch)
        if failure is None:
            return
        if len(batch) == 1:
            batch[0].tell(failure)
            return
        logger.warning("a batch of %d images failed; each is drawn alone", len(batch))
        for canvas in batch:
            if canvas.is_wanted and (failure := await self._try_to_draw([canvas])) is not None:
                canvas.tell(failure)

    async def _try_to_draw(self, batch: Sequence[Canvas]) -> ApiError | None:
        """What went wrong; None if nothing did, or if nobody wants any of them."""

        def draw(cancellation: Cancellation) -> None:
            if any(canvas.is_wanted for canvas in batch):
                self._draw(batch)

        self._drawing = batch
        self._begun += 1
        try:
            await self._worker.run(draw)
        except WorkCancelledError:
            return None  # all of them have left
        except ApiError as error:
            return error
        except Exception:  # the library's own, whatever it is
            logger.exception("a batch of %d images failed", len(batch))
            return EngineError("The model failed to draw this image.")
        finally:
            self._drawing = ()
        return None
