"""`POST /v1/embeddings`."""

import asyncio
import base64
from collections.abc import Iterator

import msgspec
import numpy as np
import orjson

from api.embeddings.endpoint import ModelCall, check_count, to_truncation
from api.endpoint import RequestMeta
from api.errors import InvalidRequestError
from api.ports.embeddings import EmbeddingRequest, Embeddings
from api.schema.embeddings import EmbeddingsRequest
from api.settings import Limits

_FLOAT32_BYTES = 4
_MAX_ON_LOOP = {"float": 131_072, "base64": 1_048_576}
"""Most numbers rendered on the event loop: less than 5 ms, at 29 and 4 ns each."""


def prepare_embeddings(request: EmbeddingsRequest, meta: RequestMeta, limits: Limits) -> ModelCall:
    """Check and translate a request for embeddings.

    Raises:
        InvalidRequestError: it has too many inputs, or `task` and `input_type` differ.
    """
    check_count(len(request.input), "input", limits)
    if request.task is not None and request.input_type not in (None, request.task):
        raise InvalidRequestError(
            "'task' and 'input_type' are two names of one parameter.", param="task"
        )
    call = EmbeddingRequest(
        request_id=meta.request_id,
        inputs=tuple(request.input),
        context=meta.context,
        dimensions=request.dimensions,
        input_type=request.input_type or request.task,
        input_type_name="task" if request.input_type is None else "input_type",
        truncation=to_truncation(request, limits),
    )

    async def render(embeddings: Embeddings) -> bytes:
        if len(embeddings.vectors) // _FLOAT32_BYTES <= _MAX_ON_LOOP[request.encoding_format]:
            return to_body(request, embeddings)
        return await asyncio.to_thread(to_body, request, embeddings)

    return ModelCall(lambda backend: backend.embed(call), render)


def to_body(request: EmbeddingsRequest, embeddings: Embeddings) -> bytes:
    """Source: OpenAI openapi.yaml, schema `CreateEmbeddingResponse`.

    Rendered row by row, because a row is one call into C and blocks all other threads.
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
            # As float64, so that the digits are those of the values that base64 decodes to.
            yield orjson.dumps(row.astype("<f8"), option=orjson.OPT_SERIALIZE_NUMPY)
