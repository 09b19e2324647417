"""`POST /v1/images/generations`."""

import base64
import time
from typing import Any

from starlette.types import Receive, Scope, Send

from api.admission import Place, admitted
from api.auth import get_key_for
from api.backends import ImageBackend, ImageRequest, Images
from api.errors import InvalidRequest
from api.exchange import deadline, read_json_body, send_json, while_connected
from api.limits import Limits
from api.origin import to_origin
from api.parsing import Read, read_request
from api.registry import Models
from api.request_id import get_request_id
from api.rules import Rules
from api.schema.images import ImagesRequest
from api.tenancy import Origin


class GenerateImages:
    """The endpoint: read → look up → call → write."""

    def __init__(self, models: Models, rules: Rules) -> None:
        """Serve the diffusion models among `models`."""
        self._models = models
        self._rules = rules
        self._limits = rules.limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        key = get_key_for(scope, "images")
        body = await read_json_body(scope, receive, self._limits)
        read = read_request(body, ImagesRequest, self._rules.policy.parameters)
        request = read.request
        origin = to_origin(key, request, endpoint="images/generations", salt=self._rules.salt)
        work = to_work(request, get_request_id(scope), origin, self._limits)
        backend = self._models.for_key(key).get_diffusion(request.model)
        async with admitted(self._rules.limiter, key, request.n) as place:
            await while_connected(receive, self._answer(read, work, backend, place, send))

    async def _answer(
        self,
        read: Read[ImagesRequest],
        work: ImageRequest,
        backend: ImageBackend,
        place: Place,
        send: Send,
    ) -> None:
        async with deadline(self._limits):
            images = await backend.generate(work)
        headers = {**read.headers(), **place.headers}
        await send_json(send, to_response(images), headers=headers)
        place.drawn = len(images.images)


def to_work(
    request: ImagesRequest, request_id: str, origin: Origin, limits: Limits
) -> ImageRequest:
    """What the request asks of the model.

    Raises:
        InvalidRequest: more images, or larger ones, than the service allows.
    """
    if request.n > limits.max_images:
        raise InvalidRequest(
            f"Invalid value for 'n': at most {limits.max_images} images may be asked for at once.",
            param="n",
        )
    width_px, height_px = request.size or (None, None)
    if width_px and height_px and width_px * height_px > limits.max_image_pixels:
        raise InvalidRequest(
            f"Invalid value for 'size': {width_px}x{height_px} is larger than the limit of "
            f"{limits.max_image_pixels} pixels.",
            param="size",
        )
    return ImageRequest(
        request_id=request_id,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        n=request.n,
        width_px=width_px,
        height_px=height_px,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        seed=request.seed,
        origin=origin,
    )


def to_response(images: Images) -> dict[str, Any]:
    """Source: OpenAI openapi.yaml, schema `ImagesResponse`; `seed` is ours, as peers have it."""
    return {
        "created": int(time.time()),
        "data": [
            {
                "b64_json": base64.b64encode(image.png).decode(),
                "url": None,
                "revised_prompt": None,
                "seed": image.seed,
            }
            for image in images.images
        ],
        "size": f"{images.width_px}x{images.height_px}",
        "output_format": "png",
        "usage": {
            "input_tokens": images.usage.prompt_tokens,
            "input_tokens_details": {"text_tokens": images.usage.prompt_tokens, "image_tokens": 0},
            "output_tokens": images.usage.completion_tokens,
            "total_tokens": images.usage.prompt_tokens + images.usage.completion_tokens,
        },
    }
