"""The body of `POST /v1/embeddings`. Source: OpenAI openapi.yaml."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from api.schema.common import MAX_TOKENS, ModelId, Request, Texts


def _check_limit(limit: int) -> int:
    if limit == 0 or limit < -1:
        raise ValueError("must be a number of tokens, or -1 for the model's maximum")
    return limit


def _to_truncate(value: Any) -> Any:
    """Accept the names that Cohere and NVIDIA use instead of a boolean."""
    if value == "START":
        raise PydanticCustomError(
            "unsupported", "Truncation at the 'START' of texts is not supported, only at the 'END'"
        )
    return {"NONE": False, "END": True}.get(value, value) if isinstance(value, str) else value


class EncoderRequest(Request):
    """The parameters that all requests to embedding models have in common."""

    model: ModelId
    user: str | None = None

    # Extensions.
    truncate: Annotated[bool, BeforeValidator(_to_truncate)] = False
    """Whether inputs that are too long for the model are truncated instead of refused."""
    truncate_prompt_tokens: (
        Annotated[int, Field(le=MAX_TOKENS), AfterValidator(_check_limit)] | None
    ) = None
    """vLLM's parameter for it: tokens of each input to keep; -1 is the model's maximum."""

    @property
    def stream(self) -> bool:
        """Embeddings and scores are never streamed."""
        return False


InputType = Annotated[str, Field(min_length=1, max_length=64)]


class EmbeddingsRequest(EncoderRequest):
    """Texts to be embedded."""

    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None

    # Extensions.
    input_type: InputType | None = None
    """Name of one of the model's prompts, such as `query`, `passage` or `document`."""
    task: InputType | None = None
    """Jina's name of `input_type`."""
