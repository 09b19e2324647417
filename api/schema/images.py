"""The bodies of the two image endpoints. Source: OpenAI openapi.yaml, with common extensions."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from api.ports.images import ImageFormat
from api.schema.common import ModelId, Request, at_most
from api.schema.strict_json import read_json

_SIZE = re.compile(r"([1-9][0-9]{0,4})[xX*×]([1-9][0-9]{0,4})")
_MAX_PROMPT_CHARS = 32_000
_MAX_LORAS = 4
_MAX_LORA_NAME_CHARS = 128
_MAX_LORA_SCALE = 4.0
"""The limit of fal.ai; negative scales are for adapters that move between two opposites."""

Quality = Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"]


def _to_size(value: Any) -> Any:
    """Convert `256x128` to (256, 128), width first, and `auto` to None, the model's own size."""
    if value == "auto":
        return None
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be 'auto' or 'WIDTHxHEIGHT' in pixels, such as '512x512'")
    return int(match[1]), int(match[2])


def _to_background(value: Any) -> Any:
    if value == "transparent":
        raise PydanticCustomError("unsupported", "A transparent background is not supported")
    return value


class LoraRequest(Request):
    """A LoRA adapter and its weight."""

    name: Annotated[str, Field(min_length=1, max_length=_MAX_LORA_NAME_CHARS)]
    scale: Annotated[float, Field(ge=-_MAX_LORA_SCALE, le=_MAX_LORA_SCALE)] = 1.0


def _check_names_differ(loras: list[LoraRequest]) -> list[LoraRequest]:
    if len({lora.name for lora in loras}) < len(loras):
        raise ValueError("must not name an adapter twice")
    return loras


class ImagesRequest(Request):
    """Images to generate."""

    reported: ClassVar = frozenset(["safety_identifier"])
    refused: ClassVar = frozenset(
        ["complexity", "frame_count", "frame_duration_ms", "moderation", "style", "svg"]
    )

    model: ModelId
    prompt: Annotated[str, Field(min_length=1, max_length=_MAX_PROMPT_CHARS)]
    n: Annotated[int, Field(ge=1)] = 1
    size: Annotated[tuple[int, int] | None, BeforeValidator(_to_size)] = None
    quality: Quality = "auto"
    background: Annotated[Literal["auto", "opaque"], BeforeValidator(_to_background)] = "auto"
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: ImageFormat = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    stream: bool = False
    partial_images: Annotated[int, Field(ge=0, le=3)] = 0
    negative_prompt: Annotated[str, Field(max_length=_MAX_PROMPT_CHARS)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=200)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    true_cfg_scale: Annotated[float, Field(ge=1, le=100)] | None = None
    scheduler: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    loras: Annotated[
        list[LoraRequest], at_most(_MAX_LORAS), AfterValidator(_check_names_differ)
    ] = Field(default_factory=list)
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    user: str | None = None


class ImageEditRequest(ImagesRequest):
    """Images to generate from another image; the form's files are validated elsewhere."""

    refused: ClassVar = ImagesRequest.refused | {"input_fidelity"}

    strength: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_fields(cls, fields: dict[str, str]) -> dict[str, Any]:
        """Convert the texts of a form to the types of the fields."""
        return {name: _read_field(name, text) for name, text in fields.items()}


_NUMBERS = {
    "n": int,
    "seed": int,
    "num_inference_steps": int,
    "output_compression": int,
    "partial_images": int,
    "guidance_scale": float,
    "true_cfg_scale": float,
    "strength": float,
}
_MAX_LORAS_CHARS = 4096
_MAX_NUMBER_CHARS = 32  # a seed has 19; `int` is slow for thousands
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


def _read_field(name: str, text: str) -> Any:
    """Convert a text to the type of a field; an invalid text stays, and the field refuses it."""
    if name == "stream":
        return {"true": True, "false": False}.get(text, text)
    if name == "loras":
        return _read_loras(text)
    number = _NUMBERS.get(name)
    if number is None or len(text) > _MAX_NUMBER_CHARS or not _NUMBER.fullmatch(text):
        return text
    return float(text) if number is float or not text.lstrip("+-").isdigit() else int(text)


def _read_loras(text: str) -> Any:
    """Parse JSON, because a form has no arrays of objects."""
    if len(text) > _MAX_LORAS_CHARS:
        return text
    try:
        return read_json(text)
    except ValueError:
        return text
