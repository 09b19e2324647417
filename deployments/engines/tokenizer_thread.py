"""Tokenization that does not block the event loop."""

from collections.abc import Callable
from typing import Generic, TypeVar

from api.ports.tenancy import RequestContext
from deployments.engines.cancellable_thread import CancellableThread, Cancellation
from deployments.engines.fair_turns import FairTurns

T = TypeVar("T")
Tokenizer = TypeVar("Tokenizer")

_INLINE_CHARS = 2000
"""Takes about 0.2 ms: as long as the way to a thread and back, which takes longer under load."""


class TokenizerThread(Generic[Tokenizer]):
    """Tokenizes short texts on the event loop and long ones in a thread of its own, in fair turns.

    So a tenant that sends many long texts delays another's text by one call, not by all of them.
    """

    def __init__(self, inline: Tokenizer, threaded: Tokenizer) -> None:
        """Start no thread before it is needed.

        Args:
            inline: the tokenizer for the event loop.
            threaded: the tokenizer for the thread; a copy, unless one object may serve both.
        """
        self._inline = inline
        self._threaded = threaded
        self._worker = CancellableThread("tokenizer")
        self._turns = FairTurns()

    async def run(
        self,
        chars: int | None,
        tokenize: Callable[[Tokenizer, Cancellation], T],
        context: RequestContext,
    ) -> T:
        """Return what `tokenize` returns; raises what it raises.

        Cancelling this call cancels the `Cancellation`, which `tokenize` should check now and then.

        Args:
            chars: length of the text; None always runs in the thread.
            tokenize: called with the tokenizer to use.
            context: whose text it is.
        """
        if chars is not None and chars <= _INLINE_CHARS:
            return tokenize(self._inline, Cancellation())
        async with self._turns.turn(context):
            return await self._worker.run(lambda stop: tokenize(self._threaded, stop))

    def shut_down(self) -> None:
        """Drop the texts that wait for the thread, and end it."""
        self._worker.shut_down()
