"""Any diffusers text-to-image pipeline: requests in, files out, everything slow in threads."""

import asyncio
import copy
import math
import secrets
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from api.errors import InvalidRequestError, ReplicaLostError
from api.ports.images import Edit, Image, ImageRequest, Images
from api.ports.stream import Delta, Extra, ImageProgress, Usage
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.batch_settings import to_recipe
from deployments.engines.diffusion.batcher import Batches, Canvas, Event, Recipe
from deployments.engines.diffusion.inpainting import put_back
from deployments.engines.diffusion.pipelines import Pipelines
from deployments.engines.diffusion.prompt_lengths import PromptReader
from deployments.engines.diffusion.sizes import check_size, fit_size
from deployments.engines.images.reader import PictureReader
from deployments.engines.images.writer import flatten, to_mask, write_picture
from deployments.engines.protocol import RequestProgress

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

_SEED_BITS = 32
_MAX_PREVIEW_PX = 2048
"""Longest side of a preview: a message of the token channel takes no file of any size."""

Emit = Callable[[Delta], None]


@dataclass(frozen=True, slots=True)
class _Sources:
    """What an edit begins with, in the size of the answer."""

    image: "PilImage"
    mask: "PilImage | None"


class DiffusersEngine:
    """One set of weights, drawing for many requests at once."""

    def __init__(
        self,
        model: str,
        options: DiffusionOptions,
        name: str = "",
        stall_timeout_s: float = math.inf,
    ) -> None:
        """Load the model; takes seconds to minutes, and blocks.

        Args:
            model: a local folder in diffusers' layout.
            options: how to run it, and the defaults of requests.
            name: of the model, for the provenance of files.
            stall_timeout_s: after so long without a step of what is drawn, `check_health` fails.

        Raises:
            Exception: whatever diffusers raises when it cannot load the model.
        """
        self._name = name
        self._stall_timeout_s = stall_timeout_s
        self._pipelines = Pipelines(model, options)
        multiple_px = math.lcm(options.size_multiple_px, self._pipelines.multiple_px)
        self._options = options.model_copy(update={"size_multiple_px": multiple_px})
        self._native_px = self._pipelines.native_px
        base = self._pipelines.base
        self._reader = PromptReader(base, self._pipelines.get_default("max_sequence_length"))
        self._health_ids = copy.deepcopy(base.tokenizer)("a", return_tensors="pt").input_ids
        self._pictures = PictureReader(options.max_input_pixels)
        self._batches = Batches(
            self._pipelines.draw,
            options.max_batch_images,
            options.max_batch_pixels,
            options.batch_window_ms / 1000,
        )

    @property
    def capacity(self) -> int:
        """Images that are let in: those of one batch, and those that the next is made of."""
        return 2 * self._options.max_batch_images

    @property
    def capabilities(self) -> dict[str, Any]:
        """What clients may ask of this model."""
        options = self._options
        return {
            "size": f"{self._native_px}x{self._native_px}",
            "size_multiple_px": options.size_multiple_px,
            "min_size_px": options.min_size_px,
            "max_size_px": options.max_size_px,
            "max_pixels": options.max_pixels,
            "num_inference_steps": options.num_inference_steps,
            "guidance_scale": options.guidance_scale if self._pipelines.has_guidance else None,
            "schedulers": list(options.schedulers),
            "qualities": dict(options.qualities),
            "loras": list(options.loras),
            "edits": self._pipelines.can_edit,
        }

    async def generate(
        self, request: ImageRequest, work: RequestProgress | None = None, emit: Emit | None = None
    ) -> Images:
        """Draw all images. Cancelling this call stops the work after the current step.

        Args:
            request: what to draw.
            work: told what it takes.
            emit: gets a delta for each step, with a preview where the request wants one.

        Raises:
            InvalidRequestError: the request does not fit this model.
            OverloadedError: `work.begin` says so.
        """
        work = work or RequestProgress()
        sources = None
        if request.edit is not None:
            sources = await self._read_sources(request, request.edit)
        width_px, height_px = self._to_size(request, sources)
        prompt_tokens = self._reader.count(request.prompt, "prompt")
        if request.negative_prompt:
            prompt_tokens += self._reader.count(request.negative_prompt, "negative_prompt")
        recipe = to_recipe(request, (width_px, height_px), self._pipelines, self._options)
        canvases = self._to_canvases(request, recipe, sources, emit is not None)
        total = self._pipelines.count_steps(recipe)
        work.count_steps_left = lambda: sum(total - each.steps_done for each in canvases)
        await work.begin(tokens=0, size=request.n)  # its key's limits count pictures
        work.usage = Usage(prompt_tokens)
        try:
            images = await self._draw(request, canvases, emit)
        finally:
            steps = sum(canvas.steps_done for canvas in canvases)
            work.record_steps(1, steps, width_px * height_px)
        latents = (width_px // self._pipelines.scale) * (height_px // self._pipelines.scale)
        work.usage = usage = Usage(prompt_tokens, completion_tokens=latents * request.n)
        work.images = request.n
        return Images(images, width_px, height_px, usage)

    async def _draw(
        self, request: ImageRequest, canvases: Sequence[Canvas], emit: Emit | None
    ) -> tuple[Image, ...]:
        total = self._pipelines.count_steps(canvases[0].recipe)
        pictures: dict[int, PilImage] = {}
        async with aclosing(self._batches.draw(canvases)) as events:
            async for event in events:
                if event.is_final:
                    pictures[event.index] = event.picture
                elif emit is not None:
                    emit(Delta(event.index, "", extra=await self._to_extra(request, event, total)))
        return tuple(
            await asyncio.gather(
                *(
                    asyncio.to_thread(self._write, request, canvas, pictures[canvas.index])
                    for canvas in canvases
                )
            )
        )

    async def _to_extra(self, request: ImageRequest, event: Event, total: int) -> Extra:
        preview = b""
        if event.picture is not None:
            event.picture.thumbnail((_MAX_PREVIEW_PX, _MAX_PREVIEW_PX))
            preview = await asyncio.to_thread(write_picture, event.picture, request.file)
        return Extra(sketch=ImageProgress(min(event.step, total), total, preview))

    def _write(self, request: ImageRequest, canvas: Canvas, picture: "PilImage") -> Image:
        if canvas.mask is not None:
            picture = put_back(picture, canvas.image, canvas.mask)
        recipe = canvas.recipe
        provenance: dict[str, Any] = {
            "model": self._name,
            "seed": canvas.seed,
            "steps": recipe.steps,
            "guidance": recipe.guidance,
        }
        if recipe.loras:
            provenance["loras"] = {lora.name: lora.scale for lora in recipe.loras}
        said = provenance if self._options.provenance else None
        return Image(write_picture(picture, request.file, said), canvas.seed)

    async def _read_sources(self, request: ImageRequest, edit: Edit) -> _Sources:
        """Decode what is to be edited."""
        image = await self._pictures.read(edit.image, "image")
        mask = None if edit.mask is None else await self._pictures.read(edit.mask, "mask")
        if mask is not None and mask.size != image.size:
            raise InvalidRequestError(
                "Invalid value for 'mask': it must be as large as the image, which is "
                f"{image.width}x{image.height}.",
                param="mask",
            )
        wanted = fit_size(image.size, self._options)
        if request.width_px and request.height_px:
            wanted = request.width_px, request.height_px
        check_size(*wanted, self._options)
        return await asyncio.to_thread(_to_sources, image, mask, wanted)

    def _to_size(self, request: ImageRequest, sources: _Sources | None) -> tuple[int, int]:
        """The size to draw in: the one asked for, the picture's, or the model's own."""
        if sources is not None:
            return sources.image.size
        width_px = request.width_px or self._native_px
        height_px = request.height_px or self._native_px
        check_size(width_px, height_px, self._options)
        return width_px, height_px

    def _to_canvases(
        self, request: ImageRequest, recipe: Recipe, sources: _Sources | None, is_watched: bool
    ) -> list[Canvas]:
        """One an image, each with its seed: the one asked for and those after it, or any."""
        first = secrets.randbits(_SEED_BITS) if request.seed is None else request.seed
        total, previews = self._pipelines.count_steps(recipe), request.previews
        looks = {total * (look + 1) // (previews + 1) for look in range(previews)} - {0, total}
        return [
            Canvas(
                index=number,
                recipe=recipe,
                prompt=request.prompt,
                negative_prompt=request.negative_prompt,
                seed=(first + number) % 2**63,
                image=sources.image if sources else None,
                mask=sources.mask if sources else None,
                preview_steps=frozenset(looks),
                is_watched=is_watched,
            )
            for number in range(request.n)
        ]

    def check_health(self) -> None:
        """Prove that drawing goes on, and that the text encoder still computes.

        Raises:
            ReplicaLostError: what is drawn has made no step for too long.
        """
        stalled_s = self._batches.stalled_s()
        if stalled_s > self._stall_timeout_s:
            raise ReplicaLostError(f"The model has made no step for {stalled_s:.0f} seconds.")
        self._pipelines.encode(self._health_ids)

    def shut_down(self) -> None:
        """Take no more work."""
        self._pictures.shut_down()
        self._batches.shut_down()


def _to_sources(image: "PilImage", mask: "PilImage | None", size: tuple[int, int]) -> _Sources:
    return _Sources(
        flatten(image).resize(size), None if mask is None else to_mask(mask).resize(size)
    )
