"""`POST /v1/embeddings`."""

import base64
from typing import Any

from starlette.types import Receive, Scope, Send

from api.admission import Place, admitted
from api.auth import get_key_for
from api.backends import EmbeddingBackend, EmbeddingRequest, Embeddings
from api.errors import InvalidRequest
from api.exchange import deadline, read_json_body, send_json, while_connected
from api.origin import to_origin
from api.parsing import Read, read_request
from api.registry import Models
from api.request_id import get_request_id
from api.rules import Rules
from api.schema.embeddings import EmbeddingsRequest

_FLOAT32_BYTES = 4


class CreateEmbeddings:
    """The endpoint: read → look up → call → write."""

    def __init__(self, models: Models, rules: Rules) -> None:
        """Serve the encoders among `models`."""
        self._models = models
        self._rules = rules
        self._limits = rules.limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        key = get_key_for(scope, "embeddings")
        body = await read_json_body(scope, receive, self._limits)
        read = read_request(body, EmbeddingsRequest, self._rules.policy.parameters)
        request = read.request
        if len(request.input) > self._limits.max_embedding_inputs:
            raise InvalidRequest(
                f"Invalid value for 'input': {len(request.input)} inputs are more than the limit "
                f"of {self._limits.max_embedding_inputs}.",
                param="input",
            )
        backend = self._models.for_key(key).get_embedding(request.model)
        origin = to_origin(key, request, endpoint="embeddings", salt=self._rules.salt)
        work = EmbeddingRequest(get_request_id(scope), tuple(request.input), origin)
        async with admitted(self._rules.limiter, key) as place:
            await while_connected(receive, self._answer(read, work, backend, place, send))

    async def _answer(
        self,
        read: Read[EmbeddingsRequest],
        work: EmbeddingRequest,
        backend: EmbeddingBackend,
        place: Place,
        send: Send,
    ) -> None:
        async with deadline(self._limits):
            embeddings = await backend.embed(work)
        headers = {**read.headers(), **place.headers}
        await send_json(send, to_response(read.request, embeddings), headers=headers)


def to_response(request: EmbeddingsRequest, embeddings: Embeddings) -> dict[str, Any]:
    """Source: OpenAI openapi.yaml, schema `CreateEmbeddingResponse`."""
    rows = _to_rows(embeddings)
    is_base64 = request.encoding_format == "base64"
    return {
        "object": "list",
        "model": request.model,
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(row).decode() if is_base64 else row.tolist(),
            }
            for index, row in enumerate(rows)
        ],
        "usage": {
            "prompt_tokens": embeddings.usage.prompt_tokens,
            "total_tokens": embeddings.usage.prompt_tokens,
        },
    }


def _to_rows(embeddings: Embeddings) -> "list[memoryview[float]]":
    row_bytes = embeddings.dimensions * _FLOAT32_BYTES
    matrix = memoryview(embeddings.vectors)
    starts = range(0, len(matrix), row_bytes)
    return [memoryview(matrix[start : start + row_bytes]).cast("f") for start in starts]  # (D,)
