"""`POST /v1/chat/completions`."""

import json
from typing import Any

from starlette.types import Receive, Scope, Send

from api.backends import Completion, Conversation, Delta, Generation, Message, Usage
from api.exchange import read_json_body, while_connected
from api.limits import Limits
from api.parsing import read_request
from api.registry import Models
from api.request_id import get_request_id
from api.schema.chat import UNSUPPORTED, ChatRequest
from api.text import (
    Heading,
    answer_text,
    check_text_request,
    to_ascii_json,
    to_sampling,
    to_usage,
)


class ChatCompletions:
    """The endpoint: read → look up → call → write."""

    def __init__(self, models: Models, limits: Limits) -> None:
        """Serve the LLMs among `models`."""
        self._models = models
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = await read_json_body(scope, receive, self._limits)
        request = read_request(body, ChatRequest, UNSUPPORTED)
        check_text_request(request, 1, self._limits)
        backend = self._models.llm(request.model)
        generation = to_generation(request, get_request_id(scope))
        answer = ChatAnswer(request, Heading.new("chatcmpl", generation.request_id, request.model))
        await while_connected(
            receive, answer_text(request, generation, backend, answer, self._limits, send)
        )


def to_generation(request: ChatRequest, request_id: str) -> Generation:
    """What the request asks of the model; `max_completion_tokens` wins over `max_tokens`."""
    messages = tuple(
        Message(
            role="system" if message.role == "developer" else message.role,
            content=message.content,
            name=message.name,
        )
        for message in request.messages
    )
    sampling = to_sampling(request, request.max_completion_tokens or request.max_tokens)
    return Generation(request_id, (Conversation(messages),), sampling)


class ChatAnswer:
    """Words answers as OpenAI's `chat.completion` and `chat.completion.chunk` objects.

    A chunk differs from the one before in little more than its text, so all else is rendered once.
    The role comes with an empty content first, and the finish reason on an empty delta last.
    """

    def __init__(self, request: ChatRequest, heading: Heading) -> None:
        """Prepare the parts that all chunks share."""
        self._heading = heading
        self._started: set[int] = set()
        wants_usage = request.stream_options is not None and request.stream_options.include_usage
        self._tail = b',"usage":null}' if wants_usage else b"}"
        head = {
            "id": heading.id,
            "object": "chat.completion.chunk",
            "created": heading.created_s,
            "model": heading.model,
        }
        self._head = json.dumps(head, separators=(",", ":")).encode()[:-1]

    def whole(self, completion: Completion) -> dict[str, Any]:
        """Source: OpenAI openapi.yaml, schema `CreateChatCompletionResponse`."""
        return {
            "id": self._heading.id,
            "object": "chat.completion",
            "created": self._heading.created_s,
            "model": self._heading.model,
            "choices": [
                {
                    "index": choice.index,
                    "message": {"role": "assistant", "content": choice.text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                }
                for choice in completion.choices
            ],
            "usage": to_usage(completion.usage),
        }

    def chunks(self, delta: Delta) -> list[bytes]:
        """Source: OpenAI openapi.yaml, schema `CreateChatCompletionStreamResponse`."""
        chunks = []
        if delta.index not in self._started:
            self._started.add(delta.index)
            chunks.append(self._chunk(delta.index, b'{"role":"assistant","content":""}', b"null"))
        if delta.text:
            content = b'{"content":' + to_ascii_json(delta.text) + b"}"
            chunks.append(self._chunk(delta.index, content, b"null"))
        if delta.finish_reason is not None:
            chunks.append(self._chunk(delta.index, b"{}", to_ascii_json(delta.finish_reason)))
        return chunks

    def usage_chunk(self, usage: Usage) -> bytes:
        """The last chunk: usage, and no choices."""
        return self._head + b',"choices":[],"usage":%b}' % json.dumps(to_usage(usage)).encode()

    def _chunk(self, index: int, delta: bytes, finish_reason: bytes) -> bytes:
        return b'%b,"choices":[{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}]%b' % (
            self._head,
            index,
            delta,
            finish_reason,
            self._tail,
        )
