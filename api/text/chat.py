"""`POST /v1/chat/completions`."""

from dataclasses import replace
from typing import Any

import msgspec

from api.endpoint import RequestMeta
from api.errors import InvalidRequestError, UnsupportedParameterError, quote
from api.ports.stream import Extra, TextDelta, TokenLogprob, Usage
from api.ports.text import Completion, Conversation, Generation
from api.registry import Llm, UsagePlacement
from api.schema.chat import ChatRequest
from api.schema.json_schema import find_cost_ms
from api.services import Services
from api.settings import Limits
from api.text.conversation import to_conversation
from api.text.endpoint import PreparedText
from api.text.image_parts import find_remote_images, insert_images
from api.text.json_parts import dump, to_ascii_json, to_logprob, to_usage, to_usage_tail
from api.text.rendering import ResponseMeta, find_usage_placement
from api.text.sampling import check_text_request, to_sampling

_SERVICE_TIER = "default"
"""OpenAI returns the tier that served the request; this service has only one."""


def prepare_chat(
    request: ChatRequest, llm: Llm, meta: RequestMeta, services: Services
) -> PreparedText:
    """Check and translate a request.

    Raises:
        InvalidRequestError: the request exceeds a limit, or an image in it cannot be used.
        UnsupportedParameterError: the model's template has no such switch.
    """
    check_text_request(request, 1, services.limits)
    if request.loglikelihood and request.n > 1:
        raise InvalidRequestError.value(
            "n", "with 'loglikelihood' it must be 1, because all choices share the prompt"
        )
    _check_template_options(request, llm)
    placement = find_usage_placement(request, llm.options)
    response = ResponseMeta.new("chatcmpl", meta.request_id, request.model, llm.options)
    renderer = ChatRenderer(request, response, placement)
    fetcher, limits = services.image_fetcher, services.limits
    if fetcher is None or not (remote := find_remote_images(request)):
        return PreparedText(to_generation(request, llm, meta, limits), renderer, placement)
    for image in remote:
        fetcher.check(image.url)
    generation = to_generation(request, llm, meta, limits, may_fetch=True)

    async def fetch() -> Generation:
        (conversation,) = generation.prompts
        assert isinstance(conversation, Conversation), "chat has no other prompts"
        filled = await insert_images(conversation, remote, fetcher, limits)
        return replace(generation, prompts=(filled,))

    return PreparedText(generation, renderer, placement, fetch)


def _check_template_options(request: ChatRequest, llm: Llm) -> None:
    for name in request.chat_template_kwargs:
        if name not in llm.options.template_options:
            raise UnsupportedParameterError(
                f"This model's chat template has no switch '{quote(name)}'.",
                param=f"chat_template_kwargs.{quote(name)}",
            )


def to_generation(
    request: ChatRequest,
    llm: Llm,
    meta: RequestMeta,
    limits: Limits,
    *,
    may_fetch: bool = False,
) -> Generation:
    """Translate a request into a `Generation`; images to be fetched stay empty.

    `max_completion_tokens` has precedence over `max_tokens`.
    """
    json_schema = request.response_format.answer_schema if request.response_format else None
    sampling = to_sampling(
        request,
        request.max_completion_tokens or request.max_tokens,
        llm.options.default_max_tokens,
        json_schema=json_schema,
        schema_cost_ms=find_cost_ms(request.compiled_schemas),
        logprobs=request.top_logprobs if request.logprobs else None,
        prompt_logprobs=0 if request.loglikelihood else None,
    )
    conversation = to_conversation(request, limits, may_fetch=may_fetch)
    return Generation(meta.request_id, (conversation,), sampling, llm.adapter, meta.context)


class ChatRenderer:
    """Renders OpenAI's `chat.completion` and `chat.completion.chunk` objects.

    Chunks differ in little more than their text, so everything else is rendered once. The first
    chunk of a choice has its role and empty content; its last chunk has the finish reason and an
    empty delta.
    """

    def __init__(
        self, request: ChatRequest, meta: ResponseMeta, usage_placement: UsagePlacement | None
    ) -> None:
        """Render the parts that all chunks share."""
        self._has_reasoning = request.include_reasoning
        self._has_loglikelihood = request.loglikelihood
        self._shared = {
            "created": meta.created_s,
            "model": meta.model,
            "system_fingerprint": meta.fingerprint,
        }
        if request.service_tier is not None:
            self._shared["service_tier"] = _SERVICE_TIER
        self._id = meta.id
        self._content_heads: dict[int, bytes] = {}
        self._tail = b',"usage":null}' if usage_placement == "own_chunk" else b"}"
        self._content_tail = b',"logprobs":null,"finish_reason":null}]' + self._tail
        self._head = dump(self._to_object("chat.completion.chunk"))[:-1]

    def _to_object(self, name: str) -> dict[str, Any]:
        return {"id": self._id, "object": name, **self._shared}

    def render(self, completion: Completion) -> dict[str, Any]:
        """Source: OpenAI openapi.yaml, schema `CreateChatCompletionResponse`."""
        return {
            **self._to_object("chat.completion"),
            "choices": [self._to_choice(choice) for choice in completion.choices],
            "usage": to_usage(completion.usage),
        }

    def _to_choice(self, choice: TextDelta) -> dict[str, Any]:
        extra = choice.extra or Extra()
        content = choice.text or (None if extra.tool_calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if extra.reasoning and self._has_reasoning:
            message["reasoning"] = extra.reasoning
        if extra.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in extra.tool_calls
            ]
        rendered = {
            "index": choice.index,
            "message": message,
            "logprobs": self._to_logprobs(extra),
            "finish_reason": choice.finish_reason,
        }
        if self._has_loglikelihood:
            rendered["loglikelihood"] = to_likelihood(extra)
        return rendered

    def _to_logprobs(self, extra: Extra) -> dict[str, Any] | None:
        """Render log probabilities; None if not requested, or of reasoning that is left out."""
        if not extra.logprobs or (extra.reasoning and not self._has_reasoning):
            return None
        return {"content": [to_content_logprob(token) for token in extra.logprobs], "refusal": None}

    def render_chunks(self, delta: TextDelta) -> list[bytes]:
        """Source: OpenAI openapi.yaml, schema `CreateChatCompletionStreamResponse`."""
        chunks = []
        content_head = self._content_heads.get(delta.index)
        if content_head is None:
            chunks.append(self._role_chunk(delta))
            content_head = self._content_heads[delta.index]
        if delta.extra is not None:
            chunks += self._rich_chunks(delta, delta.extra)
        elif delta.text:
            chunks.append(content_head + to_ascii_json(delta.text) + b"}" + self._content_tail)
        if delta.finish_reason is not None:
            end = b'{},"logprobs":null,"finish_reason":%b}]' % to_ascii_json(delta.finish_reason)
            chunks.append(self._choice_head(delta.index) + end + self._tail)
        return chunks

    def _role_chunk(self, delta: TextDelta) -> bytes:
        head = self._choice_head(delta.index)
        self._content_heads[delta.index] = head + b'{"content":'
        role = head + b'{"role":"assistant","content":""}'
        if not self._has_loglikelihood:
            return role + self._content_tail
        likelihood = dump(to_likelihood(delta.extra or Extra()))
        tail = b',"loglikelihood":%b,"logprobs":null,"finish_reason":null}]' % likelihood
        return role + tail + self._tail

    def _rich_chunks(self, delta: TextDelta, extra: Extra) -> list[bytes]:
        """Render reasoning, then content with its log probabilities, then tool calls."""
        parts: list[dict[str, Any]] = []
        if extra.reasoning and self._has_reasoning:
            parts.append({"reasoning": extra.reasoning})
        if delta.text:
            parts.append({"content": delta.text})
        if extra.tool_calls:
            calls = [
                {"index": call.index}
                | ({"id": call.id, "type": "function"} if call.id else {})
                | {
                    "function": ({"name": call.name} if call.name else {})
                    | {"arguments": call.arguments}
                }
                for call in extra.tool_calls
            ]
            parts.append({"tool_calls": calls})
        logprobs = self._to_logprobs(extra)
        if logprobs and not parts:
            parts.append({"content": ""})
        head, chunks = self._choice_head(delta.index), []
        for part in parts:
            end = b',"logprobs":%b,"finish_reason":null}]' % dump(logprobs)
            chunks.append(head + dump(part) + end + self._tail)
            logprobs = None  # only the first part carries them
        return chunks

    def render_usage_chunk(self, usage: Usage) -> bytes:
        """Render the usage as a chunk without choices."""
        return self._head + b',"choices":[]' + to_usage_tail(usage)

    def render_last_chunks(self, delta: TextDelta, usage: Usage) -> list[bytes]:
        """Render the last delta so that content, finish reason and usage share the last chunk."""
        text = delta.text if delta.extra is None else ""
        rest = msgspec.structs.replace(delta, text="" if text else delta.text, finish_reason=None)
        before = self.render_chunks(rest)
        content = b'{"content":%b}' % to_ascii_json(text) if text else b"{}"
        end = b'%b,"logprobs":null,"finish_reason":%b}]'
        reason = to_ascii_json(delta.finish_reason or "stop")
        last = self._choice_head(delta.index) + end % (content, reason)
        return [*before, last + to_usage_tail(usage)]

    def _choice_head(self, index: int) -> bytes:
        return b'%b,"choices":[{"index":%d,"delta":' % (self._head, index)


def to_content_logprob(token: TokenLogprob) -> dict[str, Any]:
    """Source: OpenAI openapi.yaml, schema `ChatCompletionTokenLogprob`."""
    return {**to_logprob(token), "top_logprobs": [to_logprob(other) for other in token.top]}


def to_likelihood(extra: Extra) -> list[dict[str, Any]]:
    """Render the log probabilities of the prompt's tokens, except the first, which has none."""
    return [to_logprob(token) for token in extra.prompt_logprobs[1:]]
