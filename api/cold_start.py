"""Requests for a model that has no replica yet: how long they wait, and what their clients see.

A model is scaled to zero, or being loaded. A stream gets its headers at once, and comments, so that
nothing on the way closes a connection that seems idle. A whole answer waits for a shorter time.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.errors import ModelStartingError
from api.http.sse import COMMENT, EventStream
from api.registry import ModelEntry, Models

_MAX_RETRY_AFTER_S = 600
_COMMENT = b"the model is being loaded"


class ColdStartWait:
    """The wait of one request until its model has a replica."""

    def __init__(self, models: Models, model_id: str) -> None:
        """Wait for a model, or for the model of an adapter."""
        self._models = models
        self._model_id = model_id

    @asynccontextmanager
    async def limit(self, wait_s: float) -> AsyncIterator[None]:
        """Limit the time of the block to `wait_s`, if the model is still not loaded then.

        Raises:
            ModelStartingError: it is not.
        """
        if not wait_s:
            raise self._to_error()
        timer = asyncio.timeout(None)
        loop = asyncio.get_running_loop()

        def give_up() -> None:
            if _find_unloaded(self._models, self._model_id) is not None:
                timer.reschedule(loop.time())

        handle = loop.call_later(wait_s, give_up)
        try:
            async with timer:
                yield
        except TimeoutError:
            if not timer.expired():
                raise
            raise self._to_error() from None
        finally:
            handle.cancel()

    async def comment(self, events: EventStream, interval_s: float) -> None:
        """Send a comment now and every `interval_s`, until this is cancelled."""
        while True:
            await events.write([(COMMENT, _COMMENT)])
            await asyncio.sleep(interval_s)

    def _to_error(self) -> ModelStartingError:
        error = ModelStartingError("The model is being loaded; try again.")
        entry = _find_unloaded(self._models, self._model_id)
        if entry is not None and entry.load_time_s is not None:
            since_s = entry.starting_since_s
            passed_s = 0.0 if since_s is None else time.monotonic() - since_s
            left_s = math.ceil(entry.load_time_s - passed_s)
            error.retry_after_s = min(max(left_s, 1), _MAX_RETRY_AFTER_S)
        return error


def find_cold_start(models: Models, model_id: str) -> ColdStartWait | None:
    """Return the wait of a request for a model; None if the model is loaded."""
    is_loaded = _find_unloaded(models, model_id) is None
    return None if is_loaded else ColdStartWait(models, model_id)


def _find_unloaded(models: Models, model_id: str) -> ModelEntry | None:
    entry = models.current.find_model_of(model_id)
    return entry if entry is not None and not entry.is_loaded else None
