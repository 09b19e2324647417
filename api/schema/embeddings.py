"""The body of `POST /v1/embeddings`. Source: OpenAI openapi.yaml."""

from typing import Literal

from api.schema.common import ModelId, Request, Texts

UNSUPPORTED = frozenset({"dimensions"})
"""OpenAI's parameters that cannot be honoured yet: refused by name, never dropped."""


class EmbeddingsRequest(Request):
    """Texts to be embedded."""

    model: ModelId
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
