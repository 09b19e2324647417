"""`POST /v1/chat/completions`."""

import json
from typing import Any

from api.backends import Completion, Conversation, Delta, Generation, Message, Usage
from api.limits import Limits
from api.parsing import read_request
from api.schema.chat import UNSUPPORTED, ChatRequest
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


def read_chat(body: bytes, request_id: str, limits: Limits) -> Asked:
    """Read a body.

    Raises:
        InvalidRequest: it is not a request of this endpoint, or not within the limits.
    """
    request = read_request(body, ChatRequest, UNSUPPORTED)
    check_text_request(request, 1, limits)
    heading = Heading.new("chatcmpl", request_id, request.model)
    return Asked(request, to_generation(request, request_id), ChatAnswer(request, heading))


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
        self._content_heads: dict[int, bytes] = {}
        self._tail = b',"usage":null}' if wants_usage(request) else b"}"
        self._content_tail = b',"logprobs":null,"finish_reason":null}]' + self._tail
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
        content_head = self._content_heads.get(delta.index)
        if content_head is None:
            role = b'{"role":"assistant","content":""}'
            chunks.append(self._choice_head(delta.index) + role + self._content_tail)
            content_head = self._choice_head(delta.index) + b'{"content":'
            self._content_heads[delta.index] = content_head
        if delta.text:
            chunks.append(content_head + to_ascii_json(delta.text) + b"}" + self._content_tail)
        if delta.finish_reason is not None:
            end = b'{},"logprobs":null,"finish_reason":%b}]' % to_ascii_json(delta.finish_reason)
            chunks.append(self._choice_head(delta.index) + end + self._tail)
        return chunks

    def usage_chunk(self, usage: Usage) -> bytes:
        """The last chunk: usage, and no choices."""
        return to_usage_chunk(self._head, usage)

    def _choice_head(self, index: int) -> bytes:
        return b'%b,"choices":[{"index":%d,"delta":' % (self._head, index)
