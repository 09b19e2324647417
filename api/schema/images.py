"""The body of `POST /v1/images/generations`. Source: OpenAI openapi.yaml, and what peers add."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from api.schema.common import ModelId, Request

_SIZE = re.compile(r"([1-9][0-9]{0,4})[xX*×]([1-9][0-9]{0,4})")


def _to_size(value: Any) -> Any:
    """`"256x128"` or `"256*128"` → (256, 128), width first; `auto` is the model's own size."""
    if value == "auto":
        return None
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be 'auto' or 'WIDTHxHEIGHT' in pixels, such as '512x512'")
    return int(match[1]), int(match[2])


class ImagesRequest(Request):
    """A picture to be drawn."""

    reported: ClassVar = frozenset(["safety_identifier"])
    refused: ClassVar = frozenset(
        [
            "background",
            "complexity",
            "frame_count",
            "frame_duration_ms",
            "moderation",
            "output_compression",
            "output_format",
            "partial_images",
            "quality",
            "stream",
            "style",
            "svg",
        ]
    )

    model: ModelId
    prompt: Annotated[str, Field(min_length=1, max_length=32_000)]
    n: Annotated[int, Field(ge=1)] = 1
    size: Annotated[tuple[int, int] | None, BeforeValidator(_to_size)] = None
    response_format: Literal["b64_json"] = "b64_json"
    negative_prompt: Annotated[str, Field(max_length=32_000)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=200)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    user: str | None = None
