"""Renders the answers of the image endpoints, whole and streamed."""

import base64
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from api.errors import ApiError
from api.http.sse import COMMENT, Event
from api.ports.images import ImageRequest, Images, ImageStore
from api.ports.stream import ImageProgress, Usage
from api.schema.images import ImagesRequest

_BACKGROUND = "opaque"


class ImageRenderer:
    """Renders the answer to one request, as OpenAI's `ImagesResponse` or its stream of events."""

    def __init__(
        self,
        request: ImagesRequest,
        call: ImageRequest,
        quality: str | None,
        store: ImageStore | None,
        find_base_url: Callable[[], str],
    ) -> None:
        """Render the answer to a request.

        Args:
            request: the request as parsed.
            call: the request as sent to the model.
            quality: None if the model has no such quality.
            store: stores the images of answers with URLs.
            find_base_url: returns scheme and host of URLs, unless `store` has its own.
        """
        self._request = request
        self._call = call
        self._kind = "image_generation" if call.edit is None else "image_edit"
        self._quality = quality
        self._store = store
        self._find_base_url = find_base_url
        self._previews = 0

    async def render(self, images: Images) -> bytes:
        """Render all images, as base64 or as URLs.

        Source: OpenAI openapi.yaml, schema `ImagesResponse`; `seed` is a common extension.
        """
        urls = await self._store_images(images)
        quality = {} if self._quality is None else {"quality": self._quality}
        return msgspec.json.encode(
            {
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
                "output_format": self._request.output_format,
                "background": _BACKGROUND,
                **quality,
                "usage": to_usage(images.usage),
            }
        )

    async def _store_images(self, images: Images) -> list[str] | None:
        """Store the images and return their URLs; None if the body will contain the images."""
        store = self._store
        if store is None or self._request.response_format == "b64_json":
            return None
        base_url = (store.base_url or self._find_base_url()).rstrip("/")
        file_format = self._request.output_format
        names = [await store.keep(image.data, file_format) for image in images.images]
        return [f"{base_url}/v1/images/files/{name}" for name in names]

    def render_deltas(self, deltas: Sequence[ImageProgress]) -> list[Event]:
        """Render each step as a comment, and each preview as an event."""
        events: list[Event] = []
        for progress in deltas:
            events.append((COMMENT, f"step {progress.step} of {progress.steps}".encode()))
            if progress.preview:
                events.append(self._render_preview(progress.preview))
        return events

    def _render_preview(self, preview: bytes) -> Event:
        """Source: OpenAI openapi.yaml, schema `ImageGenPartialImageEvent`."""
        call, index = self._call, self._previews
        self._previews += 1
        size = f"{call.width_px}x{call.height_px}" if call.width_px else "auto"
        return self._event("partial_image", preview, size, {"partial_image_index": index})

    def render_end(self, images: Images) -> list[Event]:
        """Render the finished image.

        Source: OpenAI openapi.yaml, schema `ImageGenCompletedEvent`; `seed` is an extension.
        """
        (image,) = images.images
        size = f"{images.width_px}x{images.height_px}"
        more = {"seed": image.seed, "usage": to_usage(images.usage)}
        return [self._event("completed", image.data, size, more)]

    def render_error(self, error: ApiError) -> list[Event]:
        """Render an error."""
        return [(None, json.dumps(error.body()).encode())]

    def _event(self, name: str, image: bytes, size: str, more: dict[str, Any]) -> Event:
        payload = {
            "type": f"{self._kind}.{name}",
            "b64_json": base64.b64encode(image).decode(),
            "created_at": int(time.time()),
            "size": size,
            "quality": self._quality or "auto",
            "background": _BACKGROUND,
            "output_format": self._request.output_format,
            **more,
        }
        return payload["type"], msgspec.json.encode(payload)


def to_usage(usage: Usage) -> dict[str, Any]:
    """Source: OpenAI openapi.yaml, schema `ImageGenUsage`; an image's tokens are its latents."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"text_tokens": usage.prompt_tokens, "image_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
