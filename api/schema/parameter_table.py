"""`python -m api.schema.parameter_table`: renews the table in api/README.md, what becomes of which parameter.

It is made from the schemas, and a test fails when it is not what they say.
"""

from collections.abc import Iterator
from pathlib import Path

from api.schema.chat import ChatRequest
from api.schema.common import Request
from api.schema.completions import CompletionRequest
from api.schema.embeddings import EmbeddingsRequest
from api.schema.images import ImageEditRequest, ImagesRequest
from api.schema.reranking import RerankRequest, ScoringRequest

README = Path(__file__).resolve().parents[1] / "README.md"
_BEGIN, _END = "<!-- parameters: begin -->", "<!-- parameters: end -->"
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
    """What becomes of one parameter."""
    if name in schema.reported:
        return "reported"
    if name in schema.refused:
        return "refused"
    return "honoured" if name in schema.model_fields else ""


def to_lines() -> Iterator[str]:
    """The table in Markdown."""
    yield "| parameter | " + " | ".join(_SCHEMAS) + " |"
    yield "|---" * (len(_SCHEMAS) + 1) + "|"
    names = {
        name
        for schema in _SCHEMAS.values()
        for name in [*schema.model_fields, *schema.refused, *schema.reported]
    }
    for name in sorted(names):
        words = [describe(schema, name) for schema in _SCHEMAS.values()]
        yield f"| `{name}` | " + " | ".join(words) + " |"


def renew(text: str) -> str:
    """A text with the table between its two marks renewed."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return before + "\n".join([_BEGIN, *to_lines(), _END]) + after


if __name__ == "__main__":
    README.write_text(renew(README.read_text()))
