"""The body of `POST /v1/embeddings`. Source: OpenAI openapi.yaml."""

from typing import ClassVar, Literal

from api.schema.common import ModelId, Request, Texts


class EmbeddingsRequest(Request):
    """Texts to be embedded."""

    refused: ClassVar = frozenset({"dimensions"})

    model: ModelId
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
