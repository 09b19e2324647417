"""The model backends of `api.ports`, implemented by Ray Serve's deployment handles."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors

from api.errors import ApiError, EngineError, ModelFailedError, OverloadedError, ReplicaLostError
from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.ports.images import ImageRequest, Images
from api.ports.stream import ImageProgress, TextDelta
from api.ports.text import Completion, Generation
from deployments.transport.token_channel import Receiver, Result, StreamEnd

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponse

logger = logging.getLogger(__name__)

_LAST_DELTAS_TIMEOUT_S = 2.0

Item = TypeVar("Item", TextDelta, ImageProgress)


class LlmHandle:
    """An `LlmBackend` behind a handle; streams come over the token channel."""

    def __init__(self, handle: "DeploymentHandle[Any]", receiver: Receiver) -> None:
        """Call `handle`; deltas arrive at `receiver`."""
        self._complete = handle.complete
        self._stream = handle.stream
        self._receiver = receiver

    async def complete(self, generation: Generation) -> Completion:
        """Generate the whole completion."""
        method = self._prefer(self._complete, generation.adapter)
        completion: Completion = await call(method, generation)
        return completion

    def stream(self, generation: Generation) -> "ChannelStream[TextDelta, Completion]":
        """Generate the completion as a stream of deltas."""
        method = self._prefer(self._stream, generation.adapter)
        return ChannelStream(method, generation, self._receiver)

    def _prefer(
        self, method: "DeploymentHandle[Any]", adapter: str | None
    ) -> "DeploymentHandle[Any]":
        """Prefer a replica that has loaded the adapter, if one is free."""
        return method.options(multiplexed_model_id=adapter) if adapter else method


class ChannelStream(Generic[Item, Result]):
    """A stream: the call of the replica, and the deltas that arrive beside it."""

    def __init__(
        self,
        method: "DeploymentHandle[Any]",
        request: Generation | ImageRequest,
        receiver: Receiver,
        last_deltas_timeout_s: float = _LAST_DELTAS_TIMEOUT_S,
    ) -> None:
        """Open a reader and start the call.

        Args:
            method: the replica's streaming method.
            request: its argument, beside the address of the reader.
            receiver: where the deltas arrive.
            last_deltas_timeout_s: how long deltas may arrive after the call has returned.
        """
        self._receiver = receiver
        self._reader = receiver.open()
        self._last_deltas_timeout_s = last_deltas_timeout_s
        result = call(method, request, self._reader.reply_to)
        self._call: asyncio.Task[StreamEnd[Result]] = asyncio.create_task(result)
        self._call.add_done_callback(lambda _: self._reader.notify())
        self._completion: Result | None = None

    @property
    def completion(self) -> Result:
        """The result; available once the iteration has ended."""
        assert self._completion is not None, "the stream has not ended"
        return self._completion

    async def __aiter__(self) -> AsyncIterator[Sequence[Item]]:
        """Yield deltas until as many have arrived as the call's result says were sent.

        Raises:
            ApiError: the call failed, or deltas were lost.
        """
        reader = self._reader
        while not self._call.done():
            await reader.wait()
            if deltas := self._drain():
                yield deltas
        if deltas := self._drain():
            yield deltas
        end = self._call.result()
        while reader.received < end.deltas_sent:
            await self._wait_after_the_result()
            yield self._drain()
        self._completion = end.completion

    def _drain(self) -> Sequence[Item]:
        if self._reader.has_gap:
            raise EngineError("A part of the answer was lost on its way.")
        return cast(list[Item], self._reader.drain())

    async def _wait_after_the_result(self) -> None:
        try:
            async with asyncio.timeout(self._last_deltas_timeout_s):
                await self._reader.wait()
        except TimeoutError:
            raise EngineError("The end of the answer was lost on its way.") from None

    async def aclose(self) -> None:
        """Cancel the call if it is still running, and close the reader. Safe to repeat."""
        self._receiver.close(self._reader)
        self._call.cancel()
        await asyncio.wait({self._call})
        if not self._call.cancelled():
            self._call.exception()  # marks it as retrieved; the iteration has raised it already


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
    """An `ImageBackend` behind a handle; progress comes over the token channel."""

    def __init__(self, handle: "DeploymentHandle[Any]", receiver: Receiver) -> None:
        """Call `handle`; progress arrives at `receiver`."""
        self._generate = handle.generate
        self._stream = handle.stream
        self._receiver = receiver

    async def generate(self, request: ImageRequest) -> Images:
        """Generate all images."""
        images: Images = await call(self._generate, request)
        return images

    def stream(self, request: ImageRequest) -> ChannelStream[ImageProgress, Images]:
        """Generate all images, with a stream of their progress."""
        return ChannelStream(self._stream, request, self._receiver)


async def call(method: "DeploymentHandle[Any]", *args: Any) -> Any:
    """Call a replica's method; cancelling this coroutine cancels the call in the replica too.

    Raises:
        ApiError: the replica's own error, or a translation of Ray's.
    """
    with translate_ray_errors():
        # Within the coroutine: if it is cancelled before it starts, no call is made.
        response: DeploymentResponse[Any] = method.remote(*args)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise


@contextmanager
def translate_ray_errors() -> Iterator[None]:
    """Translate what a handle call raises into `api.errors`.

    Over gRPC, which Serve uses in its throughput mode, a replica's error arrives unchanged.
    Otherwise it arrives as a class that is both `RayTaskError` and the original, and its text
    contains the remote traceback (ray.exceptions, 2.60): then only its cause is used.
    """
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
    except Exception as error:  # everything else is an internal error of the model
        logger.exception("a call to a model failed")
        raise EngineError("The model failed to answer this request.") from error
