"""Parts that several schemas share: the strict base class, and parameters of text requests."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_TOKENS = 2**31 - 1
MAX_TEXTS = 65_536
"""Most texts of a request, whatever the service's limits: each is validated by itself."""
_MAX_UNKNOWN = 16
"""Most unknown members of one object: each becomes an error, or part of a response header."""
_MAX_STOP_SEQUENCES = 4
_MAX_TOKEN_IDS = 16_384
_MAX_BIASES = 300
_MAX_BAD_WORDS = 64


class Request(BaseModel):
    """Base of all request schemas: no unknown fields, no coercion, no NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    refused: ClassVar[frozenset[str]] = frozenset()
    """Parameters of other services that this service cannot honour."""
    reported: ClassVar[frozenset[str]] = frozenset()
    """Parameters that are accepted, and reported as without effect."""

    @classmethod
    def count_members(cls) -> int:
        """Return the largest number of members: all known names, and a few unknown ones."""
        return len(cls.model_fields) + len(cls.refused) + len(cls.reported) + _MAX_UNKNOWN

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        """Treat null as absent, even for unknown names: clients send whole option objects."""
        if not isinstance(value, dict):
            return value
        if len(value) > cls.count_members():
            raise ValueError(f"must have at most {cls.count_members()} members")
        return {name: member for name, member in value.items() if member is not None}


def at_most(count: int) -> BeforeValidator:
    """Limit the size of an array or object before its items are validated.

    Pydantic's own limit comes after the validation of the items, and each invalid item becomes an
    error; a body has room for millions, which would block the event loop.
    """

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > count:
            raise ValueError(f"must hold at most {count} items, not {len(value)}")
        return value

    return BeforeValidator(check)


def _to_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopSequences = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=256)]],
    BeforeValidator(_to_list),
    at_most(_MAX_STOP_SEQUENCES),
]
"""One string, or up to four. Source: OpenAI openapi.yaml, `StopConfiguration`."""

TokenCount = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
ModelId = Annotated[str, Field(min_length=1)]


def check_token_ids(ids: list[Any]) -> tuple[int, ...]:
    """Check that a list holds token ids and is not empty."""
    # There may be millions, so there is no Python code per item.
    if set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) > MAX_TOKENS:
        raise ValueError("token ids must be a non-empty array of integers, none of them negative")
    return tuple(ids)


def to_texts(value: Any) -> Any:
    """Convert OpenAI's four forms (string, strings, token ids, lists of token ids) to a list."""
    if isinstance(value, str):
        return [_to_text(value)]
    if not isinstance(value, list) or not value:
        raise ValueError("must be a string, or a non-empty array of strings or of token ids")
    if type(value[0]) is int:
        return [check_token_ids(value)]
    if len(value) > MAX_TEXTS:
        raise ValueError(f"{len(value)} texts are more than the limit of {MAX_TEXTS}")
    if len(set(map(type, value))) > 1:
        raise ValueError("must hold either strings or arrays of token ids")
    return [_to_text(item) for item in value]


def _to_text(item: Any) -> str | tuple[int, ...]:
    if isinstance(item, str) and item:
        return item
    if isinstance(item, list):
        return check_token_ids(item)
    raise ValueError("must hold non-empty strings or arrays of token ids")


Texts = Annotated[list[str | tuple[int, ...]], BeforeValidator(to_texts)]


def _to_biases(value: Any) -> Any:
    """Convert `{"50256": -100}` to {50256: -100.0}, and drop null biases."""
    if not isinstance(value, dict) or len(value) > _MAX_BIASES:
        raise ValueError(f"must be an object of at most {_MAX_BIASES} token ids and biases")
    return {_to_token_id(key): bias for key, bias in value.items() if bias is not None}


def _to_token_id(key: Any) -> Any:
    is_number = isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 11
    if not is_number or int(key) > MAX_TOKENS:
        raise ValueError("its keys must be token ids")
    return int(key)


Biases = Annotated[dict[int, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_to_biases)]
"""Token id → value added to its logit. Source: OpenAI openapi.yaml, `logit_bias`."""


class StreamOptions(Request):
    """Options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """OpenAI pads chunks to hide their sizes from eavesdroppers; this service does not."""
    usage_placement: Literal["own_chunk", "last_chunk"] | None = None
    """An extension: where the usage goes; None leaves it to the model's configuration."""


REFUSED_OF_VLLM = frozenset(
    [
        "add_special_tokens",
        "cache_salt",
        "ec_transfer_params",
        "kv_transfer_params",
        "length_penalty",
        "logprob_token_ids",
        "mm_payload",
        "priority",
        "prompt_logprobs",
        "repetition_detection",
        "request_id",
        "return_mm_kwargs",
        "return_token_ids",
        "return_token_offsets",
        "return_tokens_as_token_ids",
        "routed_experts_prompt_start",
        "session_id",
        "spaces_between_special_tokens",
        "stream_interval",
        "structured_outputs",
        "thinking_token_budget",
        "truncate_prompt_tokens",
        "truncation_side",
        "use_beam_search",
        "vllm_xargs",
        "watermarking",
    ]
)
"""Parameters of vLLM's server for chat and completions that are internal, or not safe to allow."""


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
    logit_bias: Biases | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    # Extensions, by vLLM's names.
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0
    stop_token_ids: Annotated[list[TokenId], at_most(_MAX_TOKEN_IDS)] = Field(default_factory=list)
    bad_words: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]],
        at_most(_MAX_BAD_WORDS),
    ] = Field(default_factory=list)
    allowed_token_ids: (
        Annotated[list[TokenId], Field(min_length=1), at_most(_MAX_TOKEN_IDS)] | None
    ) = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False

    # Extensions of other services.
    peft: ModelId | None = None
    """A LoRA adapter of `model`."""
    log_prompt: bool = False
    """Whether to write the prompt to the service's prompt log."""
