"""`DeploymentHandle` → the Protocols of `api.ports.images`; Ray's errors → `api.errors`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic

from api.errors import ApiError, EngineError, ModelFailedError, OverloadedError, ReplicaLostError
from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.ports.images import ImageRequest, Images
from api.ports.stream import Delta
from api.ports.text import Completion, Generation
from deployments.transport.token_channel import Receiver, Result, StreamEnd

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponse

logger = logging.getLogger(__name__)

_LAST_DELTAS_TIMEOUT_S = 2.0


class LlmHandle:
    """An `LlmBackend` behind a handle, with the token channel for what streams."""

    def __init__(self, handle: "DeploymentHandle[Any]", receiver: Receiver) -> None:
        """Call `handle`; deltas arrive at `receiver`."""
        self._complete = handle.complete
        self._stream = handle.stream
        self._receiver = receiver

    async def complete(self, generation: Generation) -> Completion:
        """Write the whole answer."""
        method = self._prefer(self._complete, generation.adapter)
        completion: Completion = await call(method, generation)
        return completion

    def stream(self, generation: Generation) -> "ChannelStream[Completion]":
        """Write the answer piece by piece."""
        method = self._prefer(self._stream, generation.adapter)
        return ChannelStream(method, generation, self._receiver)

    def _prefer(
        self, method: "DeploymentHandle[Any]", adapter: str | None
    ) -> "DeploymentHandle[Any]":
        """A replica that has the adapter already, if one is free."""
        return method.options(multiplexed_model_id=adapter) if adapter else method


class ChannelStream(Generic[Result]):
    """A stream of any kind: the result of the call, and the deltas that travel beside it."""

    def __init__(
        self,
        method: "DeploymentHandle[Any]",
        request: Generation | ImageRequest,
        receiver: Receiver,
    ) -> None:
        """Open an inbox and make the call."""
        self._receiver = receiver
        self._stream_reader = receiver.open()
        calling = call(method, request, self._stream_reader.reply_to)
        self._calling: asyncio.Task[StreamEnd[Result]] = asyncio.create_task(calling)
        self._calling.add_done_callback(lambda _: self._stream_reader.notify())
        self._completion: Result | None = None

    @property
    def completion(self) -> Result:
        """The final word; there only once the iteration has ended."""
        assert self._completion is not None, "the stream has not ended"
        return self._completion

    async def __aiter__(self) -> AsyncIterator[Sequence[Delta]]:
        """Yield deltas until as many have come as the call's result says were sent."""
        reader = self._stream_reader
        while not self._calling.done():
            await reader.wait()
            if deltas := self._take():
                yield deltas
        if deltas := self._take():
            yield deltas
        end = self._calling.result()
        while reader.received < end.deltas_sent:
            await self._wait_for_the_last()
            yield self._take()
        self._completion = end.completion

    def _take(self) -> Sequence[Delta]:
        if self._stream_reader.has_gap:
            raise EngineError("A part of the answer was lost on its way.")
        return self._stream_reader.drain()

    async def _wait_for_the_last(self) -> None:
        try:
            async with asyncio.timeout(_LAST_DELTAS_TIMEOUT_S):
                await self._stream_reader.wait()
        except TimeoutError:
            raise EngineError("The end of the answer was lost on its way.") from None

    async def aclose(self) -> None:
        """Cancel the call if it is still under way, and forget the inbox."""
        self._receiver.close(self._stream_reader)
        self._calling.cancel()
        await asyncio.wait({self._calling})
        if not self._calling.cancelled():
            self._calling.exception()  # marks it as seen: whoever iterated has had it


class EmbeddingHandle:
    """An `EmbeddingBackend` behind a handle."""

    def __init__(self, handle: "DeploymentHandle[Any]") -> None:
        """Call `handle`."""
        self._embed = handle.embed
        self._score = handle.score

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed all inputs."""
        embeddings: Embeddings = await call(self._embed, request)
        return embeddings

    async def score(self, request: ScoreRequest) -> Scores:
        """Score all pairs."""
        scores: Scores = await call(self._score, request)
        return scores


class DiffusionHandle:
    """An `ImageBackend` behind a handle, with the token channel for what streams."""

    def __init__(self, handle: "DeploymentHandle[Any]", receiver: Receiver) -> None:
        """Call `handle`; sketches arrive at `receiver`."""
        self._generate = handle.generate
        self._stream = handle.stream
        self._receiver = receiver

    async def generate(self, request: ImageRequest) -> Images:
        """Draw all images."""
        images: Images = await call(self._generate, request)
        return images

    def stream(self, request: ImageRequest) -> ChannelStream[Images]:
        """Draw, and tell on the way how far it is."""
        return ChannelStream(self._stream, request, self._receiver)


async def call(method: "DeploymentHandle[Any]", *args: Any) -> Any:
    """Call and wait; whoever stops waiting cancels the call in the replica too."""
    with translate_ray_errors():
        # Called in here: whoever is cancelled before that has nothing under way.
        response: DeploymentResponse[Any] = method.remote(*args)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise


@contextmanager
def translate_ray_errors() -> Iterator[None]:
    """Map what a handle call raises to our tree.

    What a replica raises arrives as it was when Serve talks gRPC, as in its throughput mode. Else
    it arrives as a class that is both `RayTaskError` and the original, whose text holds the remote
    traceback (ray.exceptions, 2.60): only its cause is of use then.
    """
    from ray import exceptions as ray_errors
    from ray.serve import exceptions as serve_errors

    try:
        yield
    except serve_errors.BackPressureError:
        raise OverloadedError("The model has more requests than it can take; try again.") from None
    except serve_errors.DeploymentUnavailableError:
        raise ModelFailedError("The model could not be loaded.", param="model") from None
    except ray_errors.RayTaskError as error:
        if isinstance(error.cause, ApiError):
            raise error.cause from None
        raise EngineError("The model failed to answer this request.") from error
    except (
        serve_errors.ReplicaUnavailableError,
        ray_errors.RayActorError,
        ray_errors.WorkerCrashedError,
        ray_errors.NodeDiedError,
        ray_errors.LocalRayletDiedError,
        ray_errors.ObjectLostError,  # the result was lost with its node before it was read
    ):
        raise ReplicaLostError("The replica that worked on this request was lost.") from None
    except ApiError:
        raise
    except Exception as error:  # whatever else went wrong in there, here it is one thing
        logger.exception("a call to a model failed")
        raise EngineError("The model failed to answer this request.") from error
