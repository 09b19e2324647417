"""`POST /v1/completions`."""

from typing import Any

from api.errors import InvalidRequestError
from api.ports.stream import Delta, Extra, TokenLogprob, Usage
from api.ports.text import Completion, Generation
from api.registry import Llm
from api.schema.completions import CompletionRequest
from api.settings import Limits
from api.text.endpoint import Heading, check_text_request, find_usage_placement, to_sampling
from api.text.json_parts import dump, to_ascii_json, to_number, to_usage, to_usage_tail

_DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this endpoint; chat has none."""


def read_completion(
    request: CompletionRequest, llm: Llm, request_id: str, limits: Limits
) -> "tuple[Generation, CompletionAnswer]":
    """What to ask, and how to answer.

    Raises:
        InvalidRequestError: the request is not within the limits, or asks for nothing.
    """
    check_text_request(request, len(request.prompt), limits)
    if request.max_tokens == 0 and not request.echo:
        raise InvalidRequestError(
            "Invalid value for 'max_tokens': without 'echo' it must be at least 1.",
            param="max_tokens",
        )
    heading = Heading.new("cmpl", request_id, request.model, llm.options)
    answer = CompletionAnswer(heading, find_usage_placement(request, llm.options))
    return to_generation(request, llm, request_id), answer


def to_generation(request: CompletionRequest, llm: Llm, request_id: str) -> Generation:
    """What the request asks of the model."""
    sampling = to_sampling(
        request,
        request.max_tokens,
        llm.options.default_max_tokens or _DEFAULT_MAX_TOKENS,
        logprobs=request.logprobs,
        prompt_logprobs=request.logprobs if request.echo else None,
        echo=request.echo,
    )
    return Generation(request_id, tuple(request.prompt), sampling, llm.adapter)


class CompletionAnswer:
    """Words answers as OpenAI's `text_completion` object, the same one whole and as chunks."""

    def __init__(self, heading: Heading, usage_placement: str | None) -> None:
        """Prepare the parts that all chunks share."""
        self._tail = b',"usage":null}' if usage_placement == "own_chunk" else b"}"
        self._heading = {
            "id": heading.id,
            "object": "text_completion",
            "created": heading.created_s,
            "model": heading.model,
            "system_fingerprint": heading.fingerprint,
        }
        self._head = dump(self._heading)[:-1]
        self._offsets: dict[int, int] = {}

    def whole(self, completion: Completion) -> dict[str, Any]:
        """Source: OpenAI openapi.yaml, schema `CreateCompletionResponse`."""
        choices = [
            {
                "index": choice.index,
                "text": choice.text,
                "logprobs": self._to_logprobs(choice),
                "finish_reason": choice.finish_reason,
            }
            for choice in completion.choices
        ]
        return {**self._heading, "choices": choices, "usage": to_usage(completion.usage)}

    def chunks(self, delta: Delta) -> list[bytes]:
        """One chunk a delta; the finish reason rides on the last."""
        return [self._chunk(delta) + self._tail]

    def _chunk(self, delta: Delta) -> bytes:
        text, end, logprobs = to_ascii_json(delta.text), b"null", b"null"
        if delta.finish_reason is not None:
            end = to_ascii_json(delta.finish_reason)
        if delta.extra is not None:
            logprobs = dump(self._to_logprobs(delta))
        choice = b',"choices":[{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}]'
        return self._head + choice % (delta.index, text, logprobs, end)

    def usage_chunk(self, usage: Usage) -> bytes:
        """The last chunk: usage, and no choices."""
        return self._head + b',"choices":[]' + to_usage_tail(usage)

    def closing_chunks(self, delta: Delta, usage: Usage) -> list[bytes]:
        """The last text with its finish reason and the usage, all in one."""
        return [self._chunk(delta) + to_usage_tail(usage)]

    def _to_logprobs(self, delta: Delta) -> dict[str, Any] | None:
        """Source: OpenAI openapi.yaml, `CreateCompletionResponse`; offsets count characters."""
        extra = delta.extra or Extra()
        tokens = (*extra.prompt_logprobs, *extra.logprobs)
        if not tokens:
            return None
        offsets, offset = [], self._offsets.get(delta.index, 0)
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        self._offsets[delta.index] = offset
        return {
            "text_offset": offsets,
            "token_logprobs": [to_number(token.logprob) for token in tokens],
            "tokens": [token.text for token in tokens],
            "top_logprobs": [_to_top(token) for token in tokens],
        }


def _to_top(token: TokenLogprob) -> dict[str, float | None] | None:
    if token.logprob is None:
        return None
    return {other.text: to_number(other.logprob) for other in (*token.top, token)}
