"""`POST /v1/embeddings`."""

import asyncio
import base64
from collections.abc import Iterator

import msgspec
import numpy as np
import orjson

from api.embeddings.endpoint import Asked, Call
from api.errors import InvalidRequestError
from api.ports.embeddings import EmbeddingBackend, EmbeddingRequest, Embeddings
from api.schema.embeddings import EmbeddingsRequest

_FLOAT32_BYTES = 4
_MAX_ON_LOOP = {"float": 131_072, "base64": 1_048_576}
"""Numbers that are written in under 5 ms (29 and 4 ns each); more would hold up other requests."""


def prepare_embeddings(request: EmbeddingsRequest, asked: Asked) -> Call:
    """Put a request into the service's own words.

    Raises:
        InvalidRequestError: it has too many inputs, or contradicts itself.
    """
    asked.check_count(len(request.input), "input")
    if request.task is not None and request.input_type not in (None, request.task):
        raise InvalidRequestError(
            "'task' and 'input_type' are two names of one thing.", param="task"
        )
    work = EmbeddingRequest(
        request_id=asked.request_id,
        inputs=tuple(request.input),
        context=asked.context,
        dimensions=request.dimensions,
        input_type=request.input_type or request.task,
        input_type_name="task" if request.input_type is None else "input_type",
        cut=asked.to_truncation(request),
    )

    async def call(backend: EmbeddingBackend) -> bytes:
        embeddings = await backend.embed(work)
        if len(embeddings.vectors) // _FLOAT32_BYTES <= _MAX_ON_LOOP[request.encoding_format]:
            return to_body(request, embeddings)
        return await asyncio.to_thread(to_body, request, embeddings)

    return call


def to_body(request: EmbeddingsRequest, embeddings: Embeddings) -> bytes:
    """Source: OpenAI openapi.yaml, schema `CreateEmbeddingResponse`.

    Written row by row: each is one step in C, and between two of them others may run.
    """
    tokens = embeddings.usage.prompt_tokens
    rows = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, row)
        for index, row in enumerate(_to_rows(embeddings, request.encoding_format == "base64"))
    )
    return b'{"object":"list","model":%b,"data":[%b],"usage":%b}' % (
        msgspec.json.encode(request.model),
        rows,
        msgspec.json.encode({"prompt_tokens": tokens, "total_tokens": tokens}),
    )


def _to_rows(embeddings: Embeddings, is_base64: bool) -> Iterator[bytes]:
    vectors = np.frombuffer(embeddings.vectors, "<f4")
    for row in vectors.reshape(-1, embeddings.dimensions):  # (D,) float32
        if is_base64:
            yield b'"%b"' % base64.b64encode(row.data)
        else:
            # As float64, or a client that compares with base64 would see other last digits.
            yield orjson.dumps(row.astype("<f8"), option=orjson.OPT_SERIALIZE_NUMPY)
