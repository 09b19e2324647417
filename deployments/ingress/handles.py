"""The model backends of `api.ports`, implemented by leases of Ray Serve's replicas."""

import msgspec

from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.ports.images import ImageRequest, Images
from api.ports.stream import ImageProgress, TextDelta
from api.ports.text import Completion, Generation
from deployments.ingress.lease import Request
from deployments.ingress.leased_call import LeasedCall
from deployments.ingress.leases import LeasePool

_completions = msgspec.msgpack.Decoder(Completion)
_embeddings = msgspec.msgpack.Decoder(Embeddings)
_scores = msgspec.msgpack.Decoder(Scores)
_images = msgspec.msgpack.Decoder(Images)


class LlmHandle:
    """An `LlmBackend` behind a handle."""

    def __init__(self, pool: LeasePool) -> None:
        """Send requests by the leases of `pool`."""
        self._pool = pool

    async def complete(self, generation: Generation) -> Completion:
        """Generate the whole completion."""
        return await self._open("complete", generation).result()

    def stream(self, generation: Generation) -> LeasedCall[TextDelta, Completion]:
        """Generate the completion as a stream of deltas."""
        return self._open("stream", generation)

    def _open(self, method: str, generation: Generation) -> LeasedCall[TextDelta, Completion]:
        return self._pool.open(Request(method, generation, _completions, generation.adapter))


class EmbeddingHandle:
    """An `EmbeddingBackend` behind a handle."""

    def __init__(self, pool: LeasePool) -> None:
        """Send requests by the leases of `pool`."""
        self._pool = pool

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed all inputs."""
        return await self._pool.open(Request("embed", request, _embeddings)).result()

    async def score(self, request: ScoreRequest) -> Scores:
        """Score all pairs."""
        return await self._pool.open(Request("score", request, _scores)).result()


class DiffusionHandle:
    """An `ImageBackend` behind a handle."""

    def __init__(self, pool: LeasePool) -> None:
        """Send requests by the leases of `pool`."""
        self._pool = pool

    async def generate(self, request: ImageRequest) -> Images:
        """Generate all images."""
        return await self._pool.open(Request("generate", request, _images)).result()

    def stream(self, request: ImageRequest) -> LeasedCall[ImageProgress, Images]:
        """Generate all images, with a stream of their progress."""
        return self._pool.open(Request("stream", request, _images))
