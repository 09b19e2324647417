"""`POST /v1/images/generations`, and the flow that edits share: ask an image model, answer."""

import logging
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from api.access.admission import Permit, rate_limited
from api.access.request_context import build_request_context
from api.errors import ApiError, InvalidRequestError
from api.http.lifetime import deadline, while_connected
from api.http.parsing import Read
from api.http.response import send_json
from api.http.sse import EventStream
from api.images.files import to_base_url
from api.images.rendering import Wording, progress_comment, to_response
from api.middleware.errors import find_unwrapped_send
from api.middleware.request_id import get_request_id
from api.ports.images import Edit, ImageBackend, ImageEncoding, ImageRequest, Images, Lora
from api.ports.tenancy import Key, RequestContext
from api.registry import Models
from api.schema.images import ImagesRequest
from api.services import Services
from api.settings import Limits

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request's ASGI arguments."""

    scope: Scope
    receive: Receive
    send: Send


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request as read: what it means for a model, and how the answer is given."""

    read: Read[ImagesRequest]
    work: ImageRequest
    backend: ImageBackend
    wording: Wording
    base_url: str


class ImageFlow:
    """From a request that has been read to an answer that has been written."""

    def __init__(self, models: Models, rules: Services, endpoint: str) -> None:
        """Serve the diffusion models among `models`, at the path `endpoint` without `/v1/`."""
        self._models = models
        self._rules = rules
        self._limits = rules.limits
        self._endpoint = endpoint

    async def answer(
        self,
        exchange: Exchange,
        key: Key,
        read: Read[ImagesRequest],
        edit: Edit | None = None,
    ) -> None:
        """Answer one request.

        Raises:
            ApiError: it cannot be answered, and nothing has been sent.
        """
        asked = self._to_asked(exchange.scope, key, read, edit)
        async with rate_limited(self._rules.limiter, key, read.request.n) as place:
            if read.request.stream:
                writing = self._write_stream(asked, place, exchange)
            else:
                writing = self._write_whole(asked, place, exchange.send)
            await while_connected(exchange.receive, writing)

    def _to_asked(
        self, scope: Scope, key: Key, read: Read[ImagesRequest], edit: Edit | None
    ) -> _Asked:
        request = read.request
        check_combinations(request, self._rules)
        context = build_request_context(
            key,
            request,
            endpoint=self._endpoint,
            cache_salt=self._rules.cache_salt,
            is_streamed=request.stream,
        )
        work = to_work(request, get_request_id(scope), context, self._limits, edit)
        registry = self._models.for_key(key)
        backend = registry.get_diffusion(request.model)
        entry = registry.find(request.model)
        qualities = entry.capabilities.get("qualities", {}) if entry else {}
        quality = request.quality if request.quality in qualities else None
        if request.quality != "auto" and quality is None:
            read = Read(request, (*read.ignored, "quality"))
        wording = Wording(
            "image_generation" if edit is None else "image_edit", request.output_format, quality
        )
        return _Asked(read, work, backend, wording, to_base_url(scope, self._rules.image_store))

    async def _write_whole(self, asked: _Asked, place: Permit, send: Send) -> None:
        async with deadline(self._limits):
            images = await asked.backend.generate(asked.work)
        urls = await self._to_urls(asked, images)
        headers = {**asked.read.headers(), **place.headers}
        await send_json(send, to_response(images, asked.wording, urls), headers=headers)
        place.drawn = len(images.images)

    async def _to_urls(self, asked: _Asked, images: Images) -> list[str] | None:
        store = self._rules.image_store
        if store is None or asked.read.request.response_format == "b64_json":
            return None
        names = [await store.keep(each.data, asked.wording.format) for each in images.images]
        return [f"{asked.base_url}/v1/images/files/{name}" for name in names]

    async def _write_stream(self, asked: _Asked, place: Permit, exchange: Exchange) -> None:
        """After the first event an error becomes one more; before, it has a status of its own."""
        headers = {**asked.read.headers(), **place.headers}
        events = EventStream(exchange.send, find_unwrapped_send(exchange.scope), headers)
        stream = asked.backend.stream(asked.work)
        previews = 0
        try:
            async with deadline(self._limits):
                async for deltas in stream:
                    for sketch in [delta.extra.sketch for delta in deltas if delta.extra]:
                        if sketch is None:
                            continue
                        await events.comment(progress_comment(sketch))
                        if sketch.preview:
                            await events.write_named(
                                *asked.wording.partial(sketch.preview, previews, asked.work)
                            )
                            previews += 1
            await events.write_named(*asked.wording.completed(stream.completion))
            place.drawn = len(stream.completion.images)
            await events.close()
        except ApiError as error:
            if not events.is_started:
                raise
            logger.warning("request %s: broke off: %s", asked.work.request_id, error.code)
            await events.fail(error)
        finally:
            await stream.aclose()


def check_combinations(request: ImagesRequest, rules: Services) -> None:
    """Check what concerns several parameters at once, or what the service has.

    Raises:
        InvalidRequestError: they do not go together.
    """
    if request.response_format == "url" and rules.image_store is None:
        raise _refuse("response_format", "this service keeps no images; ask for 'b64_json'")
    if request.output_compression is not None and request.output_format == "png":
        raise _refuse("output_compression", "it is for 'webp' and 'jpeg' only")
    if not request.stream:
        if request.partial_images:
            raise _refuse("partial_images", "it is only allowed when 'stream' is true")
        return
    if request.n > 1:
        raise _refuse("n", "a stream draws one image")
    if request.response_format == "url":
        raise _refuse("response_format", "a stream carries the image itself")


def _refuse(param: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"Invalid value for '{param}': {reason}.", param=param)


def to_work(
    request: ImagesRequest,
    request_id: str,
    context: RequestContext,
    limits: Limits,
    edit: Edit | None = None,
) -> ImageRequest:
    """What the request asks of the model.

    Raises:
        InvalidRequestError: more images, or larger ones, than the service allows.
    """
    if request.n > limits.max_images:
        raise _refuse("n", f"at most {limits.max_images} images may be asked for at once")
    width_px, height_px = request.size or (None, None)
    if width_px and height_px and width_px * height_px > limits.max_image_pixels:
        raise _refuse(
            "size",
            f"{width_px}x{height_px} is larger than the limit of {limits.max_image_pixels} pixels",
        )
    compression = request.output_compression
    return ImageRequest(
        request_id=request_id,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        n=request.n,
        width_px=width_px,
        height_px=height_px,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        true_cfg_scale=request.true_cfg_scale,
        seed=request.seed,
        context=context,
        scheduler=request.scheduler,
        loras=tuple(Lora(lora.name, lora.scale) for lora in request.loras),
        quality=None if request.quality == "auto" else request.quality,
        edit=edit,
        file=ImageEncoding(request.output_format, 100 if compression is None else compression),
        previews=request.partial_images,
    )
