"""The engine for diffusers' text-to-image pipelines: requests in, image files out.

A request is validated on the event loop and turned into one job per image. Everything slow runs in
threads: the batcher's runs the pipeline, and encoding files takes one for each image.
"""

import asyncio
import copy
import math
import secrets
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from api.errors import InvalidRequestError
from api.ports.images import Edit, Image, ImageRequest, Images
from api.ports.stream import ImageProgress, Usage
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.batch_settings import (
    BatchSettings,
    check_pixel_steps,
    find_max_pixel_steps,
    to_batch_settings,
)
from deployments.engines.diffusion.batcher import ImageBatcher
from deployments.engines.diffusion.image_job import ImageEvent, ImageJob
from deployments.engines.diffusion.inpainting import composite
from deployments.engines.diffusion.pipelines import Pipelines
from deployments.engines.diffusion.prompt_lengths import PromptTokenCounter
from deployments.engines.diffusion.sizes import check_size, fit_size
from deployments.engines.images.reader import ImageReader
from deployments.engines.images.writer import flatten, to_mask, write_image
from deployments.engines.protocol import RequestProgress
from deployments.engines.stall_watch import StallWatch

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

_SEED_BITS = 32
_MAX_PREVIEW_PX = 2048
"""Longest side of a preview, because messages of the token channel are limited in size."""

Emit = Callable[[ImageProgress], None]


@dataclass(frozen=True, slots=True)
class _EditInputs:
    """The decoded files of an edit, both scaled to the size to generate."""

    image: "PilImage"
    """RGB."""
    mask: "PilImage | None"
    """Mode L, white where to change the image."""


class DiffusersEngine:
    """One set of weights that generates images of many requests in batches."""

    def __init__(
        self,
        pipelines: Pipelines,
        options: DiffusionOptions,
        name: str = "",
        stall_timeout_s: float = math.inf,
    ) -> None:
        """Build an engine around a loaded model.

        Args:
            pipelines: the model.
            options: how to run it, and the defaults of requests.
            name: the model's id, stored in the provenance of files.
            stall_timeout_s: `check_health` fails if a batch makes no step for this long.
        """
        self._name = name
        self._pipelines = pipelines
        multiple_px = math.lcm(options.size_multiple_px, pipelines.multiple_px)
        self._native_px = pipelines.native_px
        own = {
            "size_multiple_px": multiple_px,
            "max_pixel_steps": find_max_pixel_steps(options, pipelines.native_px),
        }
        self._options = options.model_copy(update=own)
        base = pipelines.base
        max_sequence_length = pipelines.get_default("max_sequence_length")
        self._token_counter = PromptTokenCounter(base, max_sequence_length)
        self._health_ids = copy.deepcopy(base.tokenizer)("a", return_tensors="pt").input_ids
        self._image_reader = ImageReader(options.max_input_pixels)
        self._stall_watch = StallWatch(stall_timeout_s)
        self._batcher = ImageBatcher(
            pipelines.run,
            options.max_batch_images,
            options.max_batch_pixels,
            options.batch_window_ms / 1000,
            self._stall_watch,
        )

    @property
    def capacity(self) -> int:
        """How many images are admitted at once: those of one batch and of the next."""
        return 2 * self._options.max_batch_images

    @property
    def capabilities(self) -> dict[str, Any]:
        """Members of the model card in `/v1/models`."""
        options = self._options
        return {
            "size": f"{self._native_px}x{self._native_px}",
            "size_multiple_px": options.size_multiple_px,
            "min_size_px": options.min_size_px,
            "max_size_px": options.max_size_px,
            "max_pixels": options.max_pixels,
            "max_pixel_steps": options.max_pixel_steps,
            "num_inference_steps": options.num_inference_steps,
            "guidance_scale": options.guidance_scale if self._pipelines.has_guidance else None,
            "schedulers": list(options.schedulers),
            "qualities": dict(options.qualities),
            "loras": list(options.loras),
            "edits": self._pipelines.can_edit,
        }

    async def generate(
        self,
        request: ImageRequest,
        progress: RequestProgress | None = None,
        emit: Emit | None = None,
    ) -> Images:
        """Generate all images. Cancelling this call takes them out of their batch at the next step.

        Args:
            request: what to generate.
            progress: of this request; one unit of capacity per image.
            emit: receives the progress of each step, with previews where the request wants them.

        Raises:
            InvalidRequestError: a parameter does not suit the model.
            InvalidImageFileError: a file of an edit cannot be decoded.
            RateLimitError, OverloadedError: from `progress.begin`.
            EngineError: the pipeline failed.
        """
        progress = progress or RequestProgress()
        inputs = None
        if request.edit is not None:
            inputs = await self._read_inputs(request, request.edit)
        width_px, height_px = self._to_size(request, inputs)
        prompt_tokens = self._token_counter.count(request.prompt, "prompt")
        if request.negative_prompt:
            prompt_tokens += self._token_counter.count(request.negative_prompt, "negative_prompt")
        settings = to_batch_settings(request, (width_px, height_px), self._pipelines, self._options)
        check_pixel_steps(request, settings, self._options)
        jobs = _to_jobs(request, settings, inputs, wants_progress=emit is not None)
        progress.count_steps_left = lambda: sum(
            settings.steps_taken - job.steps_done for job in jobs
        )
        await progress.begin(tokens=0, size=request.n)  # keys' limits count images, not tokens
        progress.usage = Usage(prompt_tokens)
        try:
            images = await self._generate(request, jobs, emit)
        finally:
            steps = sum(job.steps_done for job in jobs)
            progress.record_steps(1, steps, width_px * height_px)
        latents = (width_px // self._pipelines.scale) * (height_px // self._pipelines.scale)
        progress.usage = usage = Usage(prompt_tokens, completion_tokens=latents * request.n)
        progress.images = request.n
        return Images(images, width_px, height_px, usage)

    async def _generate(
        self, request: ImageRequest, jobs: Sequence[ImageJob], emit: Emit | None
    ) -> tuple[Image, ...]:
        total = jobs[0].settings.steps_taken
        finished: dict[int, PilImage] = {}
        async with aclosing(self._batcher.generate(jobs)) as events:
            async for event in events:
                if event.is_final and event.image is not None:
                    finished[event.index] = event.image
                elif emit is not None:
                    emit(await self._to_progress(request, event, total))
        return tuple(
            await asyncio.gather(
                *(asyncio.to_thread(self._write, request, job, finished[job.index]) for job in jobs)
            )
        )

    async def _to_progress(
        self, request: ImageRequest, event: ImageEvent, total: int
    ) -> ImageProgress:
        preview = b""
        if event.image is not None:
            event.image.thumbnail((_MAX_PREVIEW_PX, _MAX_PREVIEW_PX))
            preview = await asyncio.to_thread(write_image, event.image, request.file)
        return ImageProgress(min(event.step, total), total, preview)

    def _write(self, request: ImageRequest, job: ImageJob, image: "PilImage") -> Image:
        """Encode a finished image; runs in a thread."""
        if job.image is not None and job.mask is not None:
            image = composite(image, job.image, job.mask)
        settings = job.settings
        provenance: dict[str, Any] = {
            "model": self._name,
            "seed": job.seed,
            "steps": settings.steps,
            "guidance": settings.guidance,
        }
        if settings.loras:
            provenance["loras"] = {lora.name: lora.scale for lora in settings.loras}
        stored = provenance if self._options.provenance else None
        return Image(write_image(image, request.file, stored), job.seed)

    async def _read_inputs(self, request: ImageRequest, edit: Edit) -> _EditInputs:
        """Decode the files of an edit, and scale them."""
        image = await self._image_reader.read(edit.image, "image")
        mask = None if edit.mask is None else await self._image_reader.read(edit.mask, "mask")
        if mask is not None and mask.size != image.size:
            raise InvalidRequestError.value(
                "mask", f"it must be as large as the image, which is {image.width}x{image.height}"
            )
        size = fit_size(image.size, self._native_px, self._options)
        if request.width_px and request.height_px:
            size = request.width_px, request.height_px
        check_size(*size, self._options)
        return await asyncio.to_thread(_scale_inputs, image, mask, size)

    def _to_size(self, request: ImageRequest, inputs: _EditInputs | None) -> tuple[int, int]:
        """Return the size to generate: an edit's, the requested one, or the model's own."""
        if inputs is not None:
            return inputs.image.size
        width_px = request.width_px or self._native_px
        height_px = request.height_px or self._native_px
        check_size(width_px, height_px, self._options)
        return width_px, height_px

    def check_health(self) -> None:
        """Check that the batch under way makes steps, and run the text encoder once.

        Raises:
            ReplicaLostError: no step for `stall_timeout_s`.
            Exception: what torch raises when the device has failed.
        """
        self._stall_watch.check()
        self._pipelines.encode(self._health_ids)

    def shut_down(self) -> None:
        """End the threads and the decoder process; does not wait for requests."""
        self._image_reader.shut_down()
        self._batcher.shut_down()


def _to_jobs(
    request: ImageRequest,
    settings: BatchSettings,
    inputs: _EditInputs | None,
    *,
    wants_progress: bool,
) -> list[ImageJob]:
    """Make one job per image; seeds count up from the requested one, or from a random one."""
    seed = secrets.randbits(_SEED_BITS) if request.seed is None else request.seed
    total, previews = settings.steps_taken, request.previews
    preview_steps = {total * number // (previews + 1) for number in range(1, previews + 1)}
    return [
        ImageJob(
            index=number,
            settings=settings,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=(seed + number) % 2**63,
            image=inputs.image if inputs else None,
            mask=inputs.mask if inputs else None,
            preview_steps=frozenset(preview_steps - {0, total}),
            wants_progress=wants_progress,
        )
        for number in range(request.n)
    ]


def _scale_inputs(image: "PilImage", mask: "PilImage | None", size: tuple[int, int]) -> _EditInputs:
    return _EditInputs(
        flatten(image).resize(size), None if mask is None else to_mask(mask).resize(size)
    )
