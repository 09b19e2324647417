"""The body of `POST /v1/completions`. Source: OpenAI openapi.yaml."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from api.schema.common import MAX_TOKENS, REFUSED_OF_VLLM, TextRequest, Texts
from api.schema.tools import unsupported

_MAX_LOGPROBS = 5


class CompletionRequest(TextRequest):
    """Prompts to be continued."""

    refused: ClassVar = REFUSED_OF_VLLM | {"prompt_embeds", "response_format", "suffix"}

    prompt: Texts
    echo: bool = False
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=_MAX_LOGPROBS)] | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None

    @field_validator("best_of", mode="after")
    @classmethod
    def _is_n(cls, value: Any, info: Any) -> Any:
        """Fields are validated in order, so `n` is known here."""
        if value is not None and value != info.data.get("n", value):
            raise unsupported("The parameter 'best_of' must equal 'n': answers are not ranked here")
        return value
