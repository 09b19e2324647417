"""How the image endpoints word their answers, whole and streamed."""

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from api.ports.images import ImageFormat, ImageRequest, Images
from api.ports.stream import ImageProgress, Usage

_BACKGROUND = "opaque"


@dataclass(frozen=True, slots=True)
class Wording:
    """What every event of one answer repeats."""

    kind: Literal["image_generation", "image_edit"]
    format: ImageFormat
    quality: str | None
    """None if it meant nothing to the model."""

    def partial(self, preview: bytes, index: int, work: ImageRequest) -> tuple[str, bytes]:
        """The name and the payload of the event for an unfinished picture.

        Source: OpenAI openapi.yaml, schema `ImageGenPartialImageEvent`.
        """
        size = f"{work.width_px}x{work.height_px}" if work.width_px else "auto"
        return self._event("partial_image", preview, size, {"partial_image_index": index})

    def completed(self, images: Images) -> tuple[str, bytes]:
        """The name and the payload of the last event.

        Source: OpenAI openapi.yaml, schema `ImageGenCompletedEvent`; `seed` is ours.
        """
        (image,) = images.images
        size = f"{images.width_px}x{images.height_px}"
        more = {"seed": image.seed, "usage": to_usage(images.usage)}
        return self._event("completed", image.data, size, more)

    def _event(
        self, name: str, picture: bytes, size: str, more: dict[str, Any]
    ) -> tuple[str, bytes]:
        payload = {
            "type": f"{self.kind}.{name}",
            "b64_json": base64.b64encode(picture).decode(),
            "created_at": int(time.time()),
            "size": size,
            "quality": self.quality or "auto",
            "background": _BACKGROUND,
            "output_format": self.format,
            **more,
        }
        return payload["type"], msgspec.json.encode(payload)


def progress_comment(sketch: ImageProgress) -> str:
    """What a stream says between events; clients skip it, people and proxies do not."""
    return f"step {sketch.step} of {sketch.steps}"


def to_response(
    images: Images, wording: Wording, urls: Sequence[str] | None = None
) -> dict[str, Any]:
    """Source: OpenAI openapi.yaml, schema `ImagesResponse`; `seed` is ours, as peers have it."""
    quality = {} if wording.quality is None else {"quality": wording.quality}
    return {
        "created": int(time.time()),
        "data": [
            {
                "b64_json": None if urls else base64.b64encode(image.data).decode(),
                "url": urls[number] if urls else None,
                "revised_prompt": None,
                "seed": image.seed,
            }
            for number, image in enumerate(images.images)
        ],
        "size": f"{images.width_px}x{images.height_px}",
        "output_format": wording.format,
        "background": _BACKGROUND,
        **quality,
        "usage": to_usage(images.usage),
    }


def to_usage(usage: Usage) -> dict[str, Any]:
    """Source: OpenAI openapi.yaml, schema `ImageGenUsage`; an image's tokens are its latents."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"text_tokens": usage.prompt_tokens, "image_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
