"""`POST /v1/completions`."""

from typing import Any

from api.endpoint import RequestMeta
from api.errors import InvalidRequestError
from api.ports.stream import Extra, TextDelta, TokenLogprob, Usage
from api.ports.text import Completion, Generation
from api.registry import Llm, UsagePlacement
from api.schema.completions import CompletionRequest
from api.services import Services
from api.text.endpoint import PreparedText
from api.text.json_parts import dump, to_ascii_json, to_number, to_usage, to_usage_tail
from api.text.rendering import ResponseMeta, find_usage_placement
from api.text.sampling import check_text_request, to_sampling

_DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this endpoint; chat has none."""


def prepare_completion(
    request: CompletionRequest, llm: Llm, meta: RequestMeta, services: Services
) -> PreparedText:
    """Check and translate a request.

    Raises:
        InvalidRequestError: the request exceeds a limit, or wants neither tokens nor an echo.
    """
    check_text_request(request, len(request.prompt), services.limits)
    if request.max_tokens == 0 and not request.echo:
        raise InvalidRequestError.value("max_tokens", "without 'echo' it must be at least 1")
    placement = find_usage_placement(request, llm.options)
    response = ResponseMeta.new("cmpl", meta.request_id, request.model, llm.options)
    renderer = CompletionRenderer(response, placement)
    return PreparedText(to_generation(request, llm, meta), renderer, placement)


def to_generation(request: CompletionRequest, llm: Llm, meta: RequestMeta) -> Generation:
    """Translate a request into a `Generation`."""
    sampling = to_sampling(
        request,
        request.max_tokens,
        llm.options.default_max_tokens or _DEFAULT_MAX_TOKENS,
        logprobs=request.logprobs,
        prompt_logprobs=request.logprobs if request.echo else None,
        echo=request.echo,
    )
    prompts = tuple(request.prompt)
    return Generation(meta.request_id, prompts, sampling, llm.adapter, meta.context)


class CompletionRenderer:
    """Renders OpenAI's `text_completion` object, both whole and as a chunk."""

    def __init__(self, meta: ResponseMeta, usage_placement: UsagePlacement | None) -> None:
        """Prepare the parts that all chunks share."""
        self._tail = b',"usage":null}' if usage_placement == "own_chunk" else b"}"
        self._shared = {
            "id": meta.id,
            "object": "text_completion",
            "created": meta.created_s,
            "model": meta.model,
            "system_fingerprint": meta.fingerprint,
        }
        self._head = dump(self._shared)[:-1]
        self._offsets: dict[int, int] = {}

    def render(self, completion: Completion) -> dict[str, Any]:
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
        return {**self._shared, "choices": choices, "usage": to_usage(completion.usage)}

    def render_chunks(self, delta: TextDelta) -> list[bytes]:
        """Render one chunk, which has the finish reason if the delta has one."""
        return [self._chunk(delta) + self._tail]

    def _chunk(self, delta: TextDelta) -> bytes:
        text, end, logprobs = to_ascii_json(delta.text), b"null", b"null"
        if delta.finish_reason is not None:
            end = to_ascii_json(delta.finish_reason)
        if delta.extra is not None:
            logprobs = dump(self._to_logprobs(delta))
        choice = b',"choices":[{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}]'
        return self._head + choice % (delta.index, text, logprobs, end)

    def render_usage_chunk(self, usage: Usage) -> bytes:
        """Render the usage as a chunk without choices."""
        return self._head + b',"choices":[]' + to_usage_tail(usage)

    def render_last_chunks(self, delta: TextDelta, usage: Usage) -> list[bytes]:
        """Render the last text, its finish reason and the usage as one chunk."""
        return [self._chunk(delta) + to_usage_tail(usage)]

    def _to_logprobs(self, delta: TextDelta) -> dict[str, Any] | None:
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
