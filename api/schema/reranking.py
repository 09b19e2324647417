"""The bodies of `POST /v1/rerank` and `POST /v1/score`.

Source: Jina's and Cohere's rerank API; vLLM 0.32 entrypoints/pooling/scoring/protocol.py.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from api.schema.common import MAX_TOKENS
from api.schema.embeddings import EncoderRequest


def _to_documents(value: Any) -> Any:
    """Accept Cohere's documents, which may be objects with a `text`."""
    if not isinstance(value, list) or not value:
        raise ValueError("must be a non-empty array of texts")
    return [_to_text(item) for item in value]


def _to_text(item: Any) -> str:
    if isinstance(item, dict) and set(item) == {"text"}:
        item = item["text"]
    if isinstance(item, str) and item:
        return item
    raise ValueError("must hold non-empty strings, or objects with one as their 'text'")


def _to_strings(value: Any) -> Any:
    return _to_documents([value] if isinstance(value, str) else value)


class RerankRequest(EncoderRequest):
    """Documents to sort by their relevance to a query."""

    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[str], BeforeValidator(_to_documents)]
    top_n: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    return_documents: bool = False


class ScoringRequest(EncoderRequest):
    """Pairs of texts: one text with each of the others, or two lists of the same length."""

    text_1: Annotated[list[str], BeforeValidator(_to_strings)]
    text_2: Annotated[list[str], BeforeValidator(_to_strings)]
