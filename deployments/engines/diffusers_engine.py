"""Any diffusers text-to-image pipeline, in a thread; it stops between steps if nobody waits."""

import copy
import io
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from api.backends import Image, ImageRequest, Images
from api.errors import InvalidRequest
from api.generation import Usage
from deployments.config import DiffusionOptions
from deployments.engines.hardware import pick_device, pick_dtype
from deployments.engines.worker import Cancellation, Worker
from deployments.work import Work

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

_SEED_BITS = 32


class DiffusersEngine:
    """One pipeline, drawing in a thread of its own."""

    def __init__(self, model: str, options: DiffusionOptions) -> None:
        """Load the model; takes seconds to minutes, and blocks.

        Args:
            model: a local folder in diffusers' layout.
            options: how to run it, and the defaults of requests.

        Raises:
            Exception: whatever diffusers raises when it cannot load the model.
        """
        from diffusers import AutoPipelineForText2Image

        device = pick_device(options.device)
        self._options = options
        self._pipeline = AutoPipelineForText2Image.from_pretrained(
            model,
            torch_dtype=pick_dtype(options.dtype, device),
            local_files_only=True,
            **options.from_pretrained,
        ).to(device)
        self._pipeline.set_progress_bar_config(disable=True)
        # A copy, because a fast tokenizer cannot be used by two threads at once.
        self._tokenizer = copy.deepcopy(self._pipeline.tokenizer)
        self._scale = int(self._pipeline.vae_scale_factor)
        self._native_px = _find_sample_size(self._pipeline) * self._scale
        self._worker = Worker("diffusion")

    @property
    def capacity(self) -> int:
        """Requests that it draws at once."""
        return 1

    async def generate(self, request: ImageRequest, work: Work | None = None) -> Images:
        """Draw all images. Cancelling this call stops the work after the current step.

        Raises:
            InvalidRequest: the size or the prompt does not fit this model.
            Overloaded: `work.begin` says so.
        """
        work = work or Work()
        width_px, height_px = self._check_size(request)
        prompt_tokens = self._count_tokens(request.prompt, "prompt")
        if request.negative_prompt:
            prompt_tokens += self._count_tokens(request.negative_prompt, "negative_prompt")
        seeds = self._to_seeds(request)
        await work.begin(tokens=0)  # its key's limits count pictures
        work.usage = Usage(prompt_tokens)

        def draw(cancellation: Cancellation) -> tuple[Image, ...]:
            def after_step(step: int) -> None:
                work.note_steps(request.n, step + 1, width_px * height_px)
                cancellation.check()

            return self._draw(request, width_px, height_px, seeds, after_step)

        images = await self._worker.run(draw)
        latents = (width_px // self._scale) * (height_px // self._scale)
        work.usage = usage = Usage(prompt_tokens, completion_tokens=latents * request.n)
        work.images = request.n
        return Images(images, width_px, height_px, usage)

    def _draw(
        self,
        request: ImageRequest,
        width_px: int,
        height_px: int,
        seeds: list[int],
        after_step: Callable[[int], None],
    ) -> tuple[Image, ...]:
        import torch

        def on_step_end(pipeline: Any, step: int, timestep: Any, values: Any) -> Any:
            after_step(step)
            return values

        options = self._options
        drawn = self._pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            num_images_per_prompt=request.n,
            width=width_px,
            height=height_px,
            num_inference_steps=request.num_inference_steps or options.num_inference_steps,
            guidance_scale=(
                options.guidance_scale if request.guidance_scale is None else request.guidance_scale
            ),
            # On the CPU whatever the device, so that a seed means the same picture everywhere.
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            callback_on_step_end=on_step_end,
        )
        pairs = zip(drawn.images, seeds, strict=True)
        return tuple(Image(_to_png(image), seed) for image, seed in pairs)

    def _check_size(self, request: ImageRequest) -> tuple[int, int]:
        """The size to draw in: the one asked for, or the model's own."""
        width_px = request.width_px or self._native_px
        height_px = request.height_px or self._native_px
        multiple_px, max_px = self._options.size_multiple_px, self._options.max_size_px
        if width_px % multiple_px or height_px % multiple_px:
            raise InvalidRequest(
                f"Invalid value for 'size': width and height must be multiples of {multiple_px} "
                f"for this model, and {width_px}x{height_px} is not.",
                param="size",
            )
        if max(width_px, height_px) > max_px:
            raise InvalidRequest(
                f"Invalid value for 'size': {width_px}x{height_px} is larger than this model's "
                f"limit of {max_px}x{max_px}.",
                param="size",
            )
        return width_px, height_px

    def _count_tokens(self, text: str, param: str) -> int:
        """Count a prompt's tokens; pipelines drop what is over the limit, and we do not.

        Raises:
            InvalidRequest: the text encoder cannot read all of it.
        """
        count = len(self._tokenizer(text, truncation=False, verbose=False)["input_ids"])
        if count > self._tokenizer.model_max_length:
            raise InvalidRequest(
                f"Invalid value for '{param}': it has {count} tokens, and this model reads at most "
                f"{self._tokenizer.model_max_length}.",
                param=param,
            )
        return count

    def _to_seeds(self, request: ImageRequest) -> list[int]:
        """One seed an image: the one asked for and those after it, or one drawn at random."""
        first = secrets.randbits(_SEED_BITS) if request.seed is None else request.seed
        return [(first + number) % 2**63 for number in range(request.n)]

    def check_health(self) -> None:
        """Prove that the text encoder still computes."""
        import torch

        with torch.inference_mode():
            ids = self._tokenizer("", return_tensors="pt").input_ids
            self._pipeline.text_encoder(ids.to(self._pipeline.device))

    def shut_down(self) -> None:
        """Take no more work."""
        self._worker.shut_down()


def _find_sample_size(pipeline: Any) -> int:
    """The side of the latents that a pipeline was trained on; where it stands differs by family."""
    if size := getattr(pipeline, "default_sample_size", None):
        return int(size)
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    return int(denoiser.config.sample_size)


def _to_png(image: "PilImage") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
