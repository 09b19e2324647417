"""The table of request parameters in docs/parameters.md; `scripts/docs` writes it there."""

from collections.abc import Iterator

from api.schema.chat import ChatRequest
from api.schema.common import Request
from api.schema.completions import CompletionRequest
from api.schema.embeddings import EmbeddingsRequest
from api.schema.images import ImageEditRequest, ImagesRequest
from api.schema.reranking import RerankRequest, ScoringRequest

_SCHEMAS: dict[str, type[Request]] = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
    "embeddings": EmbeddingsRequest,
    "rerank": RerankRequest,
    "score": ScoringRequest,
    "images": ImagesRequest,
    "image edits": ImageEditRequest,
}


def describe(schema: type[Request], name: str) -> str:
    """Say what happens to one parameter: `honoured`, `reported`, `refused`, or unknown (empty)."""
    if name in schema.reported:
        return "reported"
    if name in schema.refused:
        return "refused"
    return "honoured" if name in schema.model_fields else ""


def to_lines() -> Iterator[str]:
    """Make the table in Markdown, with a row for each parameter of any endpoint."""
    yield "| parameter | " + " | ".join(_SCHEMAS) + " |"
    yield "|---" * (len(_SCHEMAS) + 1) + "|"
    names = {
        name
        for schema in _SCHEMAS.values()
        for name in [*schema.model_fields, *schema.refused, *schema.reported]
    }
    for name in sorted(names):
        cells = [describe(schema, name) for schema in _SCHEMAS.values()]
        yield f"| `{name}` | " + " | ".join(cells) + " |"
