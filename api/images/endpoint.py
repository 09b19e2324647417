"""Checks and translates the requests of both image endpoints, whole or streamed with previews."""

from api.endpoint import PreparedRequest, PreparedStream, RequestMeta
from api.errors import InvalidRequestError
from api.http.parsing import ParsedRequest
from api.images.cost import count_pixel_steps
from api.images.rendering import ImageRenderer
from api.ports.images import Edit, ImageEncoding, ImageRequest, ImageStream, Lora
from api.registry import ImageModel
from api.schema.images import ImagesRequest
from api.services import Services
from api.settings import Limits


def prepare_images(
    parsed: ParsedRequest[ImagesRequest],
    model: ImageModel,
    meta: RequestMeta,
    services: Services,
    edit: Edit | None = None,
) -> PreparedRequest:
    """Check what needs the model or several parameters, and translate the request.

    Raises:
        InvalidRequestError: parameters contradict each other or exceed a limit.
    """
    request = parsed.request
    check_combinations(request, services)
    call = to_image_request(request, meta, services.limits, edit)
    quality = (
        request.quality if request.quality in model.capabilities.get("qualities", {}) else None
    )
    if request.quality != "auto" and quality is None:
        parsed = parsed.add_without_effect("quality")
    renderer = ImageRenderer(request, call, quality, services.image_store, meta.find_base_url)

    async def open_stream() -> ImageStream:
        return model.backend.stream(call)

    return PreparedRequest(
        meta.request_id,
        call=lambda: model.backend.generate(call),
        render=renderer.render,
        stream=PreparedStream(open_stream, renderer) if request.stream else None,
        headers=parsed.headers(),
        images=request.n,
        pixel_steps=count_pixel_steps(call, model.capabilities),
    )


def check_combinations(request: ImagesRequest, services: Services) -> None:
    """Check the parameters that depend on each other or on the service's settings.

    Raises:
        InvalidRequestError: a parameter is not allowed in this combination.
    """
    refuse = InvalidRequestError.value
    if request.response_format == "url" and services.image_store is None:
        raise refuse("response_format", "this service does not store images; use 'b64_json'")
    if request.output_compression is not None and request.output_format == "png":
        raise refuse("output_compression", "it is only allowed for 'webp' and 'jpeg'")
    if not request.stream:
        if request.partial_images:
            raise refuse("partial_images", "it is only allowed when 'stream' is true")
        return
    if request.n > 1:
        raise refuse("n", "a stream has only one image")
    if request.response_format == "url":
        raise refuse("response_format", "a stream contains the image itself; use 'b64_json'")


def to_image_request(
    request: ImagesRequest, meta: RequestMeta, limits: Limits, edit: Edit | None = None
) -> ImageRequest:
    """Translate a request for an image model.

    Raises:
        InvalidRequestError: the request wants more or larger images than the service allows.
    """
    refuse = InvalidRequestError.value
    if request.n > limits.max_images:
        raise refuse("n", f"it must be at most {limits.max_images}")
    width_px, height_px = request.size or (None, None)
    if width_px and height_px and width_px * height_px > limits.max_image_pixels:
        raise refuse(
            "size",
            f"{width_px}x{height_px} is larger than the limit of {limits.max_image_pixels} pixels",
        )
    compression = request.output_compression
    return ImageRequest(
        request_id=meta.request_id,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        n=request.n,
        width_px=width_px,
        height_px=height_px,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        true_cfg_scale=request.true_cfg_scale,
        seed=request.seed,
        context=meta.context,
        scheduler=request.scheduler,
        loras=tuple(Lora(lora.name, lora.scale) for lora in request.loras),
        quality=None if request.quality == "auto" else request.quality,
        edit=edit,
        file=ImageEncoding(request.output_format, 100 if compression is None else compression),
        previews=request.partial_images,
    )
