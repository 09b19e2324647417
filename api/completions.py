"""`POST /v1/completions`."""

import json
from typing import Any

from api.backends import Completion, Delta, Generation, Usage
from api.limits import Limits
from api.parsing import read_request
from api.schema.completions import UNSUPPORTED, CompletionRequest
from api.text import (
    Asked,
    Heading,
    check_text_request,
    to_ascii_json,
    to_sampling,
    to_usage,
    to_usage_chunk,
    wants_usage,
)

_DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this endpoint; chat has none."""


def read_completion(body: bytes, request_id: str, limits: Limits) -> Asked:
    """Read a body.

    Raises:
        InvalidRequest: it is not a request of this endpoint, or not within the limits.
    """
    request = read_request(body, CompletionRequest, UNSUPPORTED)
    check_text_request(request, len(request.prompt), limits)
    heading = Heading.new("cmpl", request_id, request.model)
    return Asked(request, to_generation(request, request_id), CompletionAnswer(request, heading))


def to_generation(request: CompletionRequest, request_id: str) -> Generation:
    """What the request asks of the model."""
    sampling = to_sampling(request, request.max_tokens or _DEFAULT_MAX_TOKENS)
    return Generation(request_id, tuple(request.prompt), sampling)


class CompletionAnswer:
    """Words answers as OpenAI's `text_completion` object, the same one whole and as chunks."""

    def __init__(self, request: CompletionRequest, heading: Heading) -> None:
        """Prepare the parts that all chunks share."""
        self._tail = b',"usage":null}' if wants_usage(request) else b"}"
        self._heading = {
            "id": heading.id,
            "object": "text_completion",
            "created": heading.created_s,
            "model": heading.model,
        }
        self._head = json.dumps(self._heading, separators=(",", ":")).encode()[:-1]

    def whole(self, completion: Completion) -> dict[str, Any]:
        """Source: OpenAI openapi.yaml, schema `CreateCompletionResponse`."""
        choices = [
            {
                "index": choice.index,
                "text": choice.text,
                "logprobs": None,
                "finish_reason": choice.finish_reason,
            }
            for choice in completion.choices
        ]
        return {**self._heading, "choices": choices, "usage": to_usage(completion.usage)}

    def chunks(self, delta: Delta) -> list[bytes]:
        """One chunk a delta; the finish reason rides on the last."""
        text, end = to_ascii_json(delta.text), b"null"
        if delta.finish_reason is not None:
            end = to_ascii_json(delta.finish_reason)
        choice = b',"choices":[{"index":%d,"text":%b,"logprobs":null,"finish_reason":%b}]'
        return [self._head + choice % (delta.index, text, end) + self._tail]

    def usage_chunk(self, usage: Usage) -> bytes:
        """The last chunk: usage, and no choices."""
        return to_usage_chunk(self._head, usage)
