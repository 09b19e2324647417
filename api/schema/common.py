"""What the schemas share: strictness, and the parameters of every text request."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_MAX_TOKENS = 2**31 - 1
_MAX_STOP_SEQUENCES = 4


class Request(BaseModel):
    """Base of all requests: no unknown field, no coercion, no NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        """A null means "absent", known name or not: clients send whole option objects."""
        if not isinstance(value, dict):
            return value
        return {name: member for name, member in value.items() if member is not None}


def _to_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopSequences = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=256)]],
    BeforeValidator(_to_list),
    Field(max_length=_MAX_STOP_SEQUENCES),
]
"""A string or up to four. Source: OpenAI openapi.yaml, `StopConfiguration`."""

TokenCount = Annotated[int, Field(ge=1, le=_MAX_TOKENS)]
ModelId = Annotated[str, Field(min_length=1)]


def check_token_ids(ids: list[Any]) -> tuple[int, ...]:
    """Accept a non-empty list of token ids as the model's tokenizer counts them."""
    if not ids or not all(type(token) is int and 0 <= token <= _MAX_TOKENS for token in ids):
        raise ValueError("token ids must be a non-empty array of integers, none of them negative")
    return tuple(ids)


def to_texts(value: Any) -> Any:
    """Normalise OpenAI's four forms (string, strings, token ids, lists of them) to a list."""
    if isinstance(value, str):
        return [_to_text(value)]
    if not isinstance(value, list) or not value:
        raise ValueError("must be a string, or a non-empty array of strings or of token ids")
    if type(value[0]) is int:
        return [check_token_ids(value)]
    return [_to_text(item) for item in value]


def _to_text(item: Any) -> str | tuple[int, ...]:
    if isinstance(item, str) and item:
        return item
    if isinstance(item, list):
        return check_token_ids(item)
    raise ValueError("must hold non-empty strings or arrays of token ids")


Texts = Annotated[list[str | tuple[int, ...]], BeforeValidator(to_texts)]


class StreamOptions(Request):
    """Options of a streamed answer."""

    include_usage: bool = False


class TextRequest(Request):
    """The parameters that chat and completions have in common; None means not given."""

    model: ModelId
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stop: StopSequences = Field(default_factory=list)
    max_tokens: TokenCount | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    ignore_eos: bool = False
    """vLLM's extension: go on to `max_tokens` whatever the model says; for load tests."""
