"""Parts of JSON that the answers of chat and completions share."""

import json
from json.encoder import encode_basestring_ascii
from typing import Any

from api.ports.stream import TokenLogprob, Usage

_MIN_LOGPROB = -9999.0
"""What OpenAI sends instead of minus infinity, which JSON does not have."""


def to_ascii_json(text: str) -> bytes:
    """Encode a text as a JSON string in ASCII."""
    return encode_basestring_ascii(text).encode("ascii")


def dump(value: Any) -> bytes:
    """Encode a value as JSON in ASCII, without spaces."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def to_usage(usage: Usage) -> dict[str, Any]:
    """Source: OpenAI openapi.yaml, schema `CompletionUsage`."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def to_usage_tail(usage: Usage) -> bytes:
    """Render the end of a chunk that carries the usage."""
    return b',"usage":%b}' % dump(to_usage(usage))


def to_number(logprob: float | None) -> float | None:
    """Clip a log probability to what JSON can represent."""
    return None if logprob is None else max(logprob, _MIN_LOGPROB)


def to_logprob(token: TokenLogprob) -> dict[str, Any]:
    """Source: OpenAI openapi.yaml, schema `ChatCompletionTokenLogprob` without `top_logprobs`."""
    return {
        "token": token.text,
        "logprob": to_number(token.logprob),
        "bytes": list(token.data),
    }
