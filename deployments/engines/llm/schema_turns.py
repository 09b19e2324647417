"""The order in which requests with JSON schemas go to vLLM, which compiles them one by one.

vLLM parses each schema on the event loop, once for each choice of a greedy request, and then
compiles it in its few threads, first in, first out. It does not stop when the request is aborted.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.ports.tenancy import RequestContext
from deployments.engines.fair_turns import FairTurns

_COSTLY = 200.0
"""Cheaper schemas do not wait for others to be compiled."""
_MAX_KNOWN = 128
"""Schemas that vLLM keeps compiled; its cache has room for more."""


class SchemaTurns:
    """Lets tenants take turns with schemas that take long to compile."""

    def __init__(self) -> None:
        """Start with no schema compiled."""
        self._sending = FairTurns()
        self._compiling = FairTurns()
        self._known: OrderedDict[str, None] = OrderedDict()

    @asynccontextmanager
    async def turn(
        self, schema: str, cost_ms: float, context: RequestContext, has_begun: asyncio.Event
    ) -> AsyncIterator[None]:
        """Wait until a request may go to vLLM, and send it within the block.

        A costly schema that is new keeps its turn until it is compiled, or for as long as that
        probably takes if the request is cancelled meanwhile.

        Args:
            schema: what is compiled.
            cost_ms: estimated time of compiling.
            context: whose request it is.
            has_begun: set with the request's first output, or with its end.
        """
        if cost_ms < _COSTLY or schema in self._known:
            async with self._alone(context):
                yield
            return
        await self._compiling.acquire(context)
        try:
            async with self._alone(context):
                yield
            await has_begun.wait()
        except asyncio.CancelledError:
            loop = asyncio.get_running_loop()
            loop.call_later(cost_ms / 1000, self._compiling.release)
            raise
        except BaseException:
            self._compiling.release()
            raise
        self._remember(schema)
        self._compiling.release()

    @asynccontextmanager
    async def _alone(self, context: RequestContext) -> AsyncIterator[None]:
        """Let the event loop do other things before each request that vLLM parses."""
        async with self._sending.turn(context):
            await asyncio.sleep(0)
            yield

    def _remember(self, schema: str) -> None:
        self._known[schema] = None
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
