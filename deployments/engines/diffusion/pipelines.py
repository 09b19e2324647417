"""diffusers' pipelines around one set of weights, run for one batch at a time.

A pipeline keeps state while it runs, so one thread runs them all. Between two steps of a batch it
may run another: on a copy of the pipeline, which shares the weights, with a scheduler of its own.

Images whose clients have left are not computed any more, unless the denoiser is compiled: another
batch size would recompile it.
"""

import copy
import gc
import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from deployments.config.diffusion import DiffusionOptions
from deployments.engines.cancellable_thread import WorkCancelledError
from deployments.engines.diffusion.batch_pruning import BatchPruner
from deployments.engines.diffusion.batch_settings import BatchSettings, Mode
from deployments.engines.diffusion.image_job import ImageJob
from deployments.engines.diffusion.inpainting import MaskedLatents
from deployments.engines.diffusion.latents import can_decode, decode, find_multiple_px
from deployments.engines.diffusion.loras import Loras
from deployments.engines.diffusion.pipeline_loading import (
    build_img2img,
    check_supported,
    configure,
    find_denoiser,
    find_native_px,
    load_pipeline,
)
from deployments.engines.diffusion.schedulers import (
    build_schedulers,
    has_scale_noise,
    per_image_noise,
)

if TYPE_CHECKING:
    import torch


class Pipelines:
    """The text-to-image pipeline of a model, and its img2img pipeline if there is one."""

    def __init__(self, model: str, options: DiffusionOptions, trust: Collection[str] = ()) -> None:
        """Load the model; takes seconds to minutes, and blocks.

        Args:
            model: a local folder in diffusers' layout.
            options: how to run the model.
            trust: what is accepted of its files and adapters, as in the configuration.

        Raises:
            ValueError: the model or an option is not supported.
            SourceError: a LoRA adapter does not exist or does not fit.
            Exception: what diffusers raises when it cannot load the model.
        """
        self.base: Any = load_pipeline(model, options, trust)
        check_supported(self.base)
        self._vae_dtype = self.base.vae.dtype
        # Before the model moves to its device, so that the adapters move with it.
        self._loras = Loras(self.base, options.loras, trust)
        configure(self.base, options)
        self._pruner = None if options.compile else BatchPruner(find_denoiser(self.base))
        self._is_out_of_memory = False
        self._is_offloaded = options.offload != "none"
        self._running: _Run | None = None
        """The batch under way, or the last of several that overtook each other."""
        self._schedulers = build_schedulers(self.base, options.schedulers)
        img2img = build_img2img(self.base)
        self._by_mode: dict[Mode, Any] = {
            "text2img": self.base,
            "img2img": img2img,
            "inpaint": img2img,
        }

    @property
    def scale(self) -> int:
        """Pixels per latent, along each side."""
        return int(self.base.vae_scale_factor)

    @property
    def native_px(self) -> int:
        """Side in pixels of the images that the model was trained on."""
        return find_native_px(self.base)

    @property
    def multiple_px(self) -> int:
        """What width and height must be multiples of."""
        return find_multiple_px(self.base)

    def accepts(self, parameter: str, mode: Mode = "text2img") -> bool:
        """Whether the pipeline of this mode has a parameter of that name."""
        return parameter in inspect.signature(self._by_mode[mode].__call__).parameters

    def get_default(self, parameter: str) -> Any:
        """Return the default of one of the pipeline's parameters; None if it does not have it."""
        found = inspect.signature(self.base.__call__).parameters.get(parameter)
        return found.default if found is not None else None

    @property
    def can_edit(self) -> bool:
        """Whether the model can start from an image."""
        return self._by_mode["img2img"] is not None

    @property
    def can_preview(self) -> bool:
        """Whether unfinished latents can be decoded, and parts of them replaced."""
        return can_decode(self.base)

    @property
    def has_guidance(self) -> bool:
        """Whether `guidance_scale` has an effect: some transformers are trained without it."""
        transformer = getattr(self.base, "transformer", None)
        config = transformer.config if transformer is not None else {}
        return self.accepts("guidance_scale") and config.get("guidance_embeds") is not False

    def has_scale_noise(self, scheduler: str | None) -> bool:
        """Whether a scheduler is of diffusers' flow-matching classes; None is the model's own."""
        return has_scale_noise(self._schedulers[scheduler])

    def run(
        self, batch: Sequence[ImageJob], between_steps: Callable[[], None] = lambda: None
    ) -> None:
        """Generate one batch of images of the same settings; each job emits its own events.

        Args:
            batch: the images.
            between_steps: called after each step; may call this method for another batch.

        Raises:
            WorkCancelledError: all jobs have been cancelled.
            Exception: what the pipeline raises.
        """
        import torch

        if self._is_out_of_memory:
            _free_memory()
            self._is_out_of_memory = False
        try:
            self._run(batch, between_steps)
        except BaseException as error:
            # Memory is freed by the next call: as long as it is handled, the error holds tensors.
            self._is_out_of_memory = isinstance(error, torch.OutOfMemoryError)
            self._restore_state()
            raise

    def _restore_state(self) -> None:
        """Do what pipelines do at their end only, after one that did not reach it."""
        self.base.maybe_free_model_hooks()  # moves offloaded parts back to main memory
        if self.base.vae.dtype != self._vae_dtype:
            self.base.vae.to(self._vae_dtype)  # SDXL upcasts it to float32 while it decodes

    def _run(self, batch: Sequence[ImageJob], between_steps: Callable[[], None]) -> None:
        settings = batch[0].settings
        with self._suspended():
            pipeline = self._prepare(settings)
            run = self._running = _Run(pipeline, batch, self._pruner)
            if not self._is_offloaded:  # another batch would move parts that this one still needs
                run.between_steps = between_steps
            with per_image_noise(pipeline.scheduler, run.generators):
                output = pipeline(**self._to_arguments(run))
        for job, image in zip(run.jobs, output.images, strict=True):
            job.finish(image)

    def _prepare(self, settings: BatchSettings) -> Any:
        """Return a pipeline that no batch under way uses, set up for a batch."""
        pipeline = self._by_mode[settings.mode]
        scheduler = self._schedulers[settings.scheduler]
        if self._running is not None:
            pipeline = copy.copy(pipeline)
            scheduler = type(scheduler).from_config(scheduler.config)
        pipeline.scheduler = scheduler
        self._loras.switch_to(settings.loras)
        return pipeline

    @contextmanager
    def _suspended(self) -> Iterator[None]:
        """Suspend the batch under way, if there is one, for another batch inside the block."""
        suspended = self._running
        try:
            with nullcontext() if self._pruner is None else self._pruner.suspended():
                yield
        finally:
            self._running = suspended
            if suspended is not None:
                self._loras.switch_to(suspended.settings.loras)

    def encode(self, token_ids: "torch.Tensor") -> None:
        """Run the text encoder once, to prove that it still computes.

        Args:
            token_ids: (N, T) int64, on any device.

        Raises:
            Exception: what torch raises when the device has failed.
        """
        import torch

        if self._is_offloaded:
            return  # the thread that runs the pipeline may be moving the encoder right now
        with torch.inference_mode():
            self.base.text_encoder(token_ids.to(self.base.text_encoder.device))

    def _to_arguments(self, run: "_Run") -> dict[str, Any]:
        settings, jobs = run.settings, run.jobs
        arguments: dict[str, Any] = {
            "prompt": [job.prompt for job in jobs],
            "num_inference_steps": settings.steps,
            "generator": run.generators,
            "callback_on_step_end": run.after_step,
            "callback_on_step_end_tensor_inputs": ["latents"],
            "output_type": "pil",
        }
        if settings.guidance is not None:
            arguments["guidance_scale"] = settings.guidance
        if settings.true_cfg is not None:
            arguments["true_cfg_scale"] = settings.true_cfg
        if settings.has_negative:
            arguments["negative_prompt"] = [job.negative_prompt or "" for job in jobs]
        sizes = {"width": settings.width_px, "height": settings.height_px}
        arguments |= {name: px for name, px in sizes.items() if self.accepts(name, settings.mode)}
        if self.accepts("use_resolution_binning", settings.mode):
            arguments["use_resolution_binning"] = False  # it would change the size
        if settings.mode != "text2img":
            arguments["image"] = [job.image for job in jobs]
            if self.accepts("strength", settings.mode):
                arguments["strength"] = settings.strength
        return arguments


class _Run:
    """One batch in progress: its jobs, and what happens between two steps."""

    def __init__(
        self, pipeline: Any, batch: Sequence[ImageJob], pruner: BatchPruner | None
    ) -> None:
        import torch

        self.jobs = [job for job in batch if not job.is_cancelled]
        if not self.jobs:
            raise WorkCancelledError
        self.settings = self.jobs[0].settings
        self.between_steps: Callable[[], None] = lambda: None
        seeds = [job.seed for job in self.jobs]
        # On the CPU whatever the device, so that a seed yields the same image everywhere.
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        images = [job.image for job in self.jobs if job.image is not None]
        masks = [job.mask for job in self.jobs if job.mask is not None]
        self._masked_latents = MaskedLatents(pipeline, images, masks, seeds) if masks else None
        self._pruner = pruner
        if pruner is not None:
            pruner.begin(len(self.jobs))

    def after_step(
        self, pipeline: Any, step: int, timestep: Any, values: dict[str, Any]
    ) -> dict[str, Any]:
        """Handle diffusers' `callback_on_step_end`.

        Args:
            pipeline: the running pipeline.
            step: the pass of the denoiser just made, counted from 0.
            timestep: unused.
            values: has `latents`, (N, C, h, w) or packed (N, h/2 · w/2, 4C).

        Raises:
            WorkCancelledError: all jobs have been cancelled.
        """
        active_rows = [row for row, job in enumerate(self.jobs) if not job.is_cancelled]
        if not active_rows:
            raise WorkCancelledError
        if self._pruner is not None:
            self._pruner.set_active_rows(active_rows)
        latents = values["latents"]
        if self._masked_latents is not None:
            latents = self._masked_latents.restore(pipeline, step, latents)
        for row in active_rows:
            job = self.jobs[row]
            # Some schedulers make two or more passes per step.
            passes = pipeline.num_timesteps
            job.record_step(round((step + 1) * job.settings.steps_taken / passes))
            preview = None
            if job.wants_preview:
                size = job.settings.width_px, job.settings.height_px
                preview = decode(pipeline, latents[row : row + 1], *size)
            job.report_step(preview)
        if step + 1 == pipeline.num_timesteps:  # only the VAE follows: decode active rows only
            latents = latents[active_rows]
            self.jobs = [self.jobs[row] for row in active_rows]
        self.between_steps()
        return {**values, "latents": latents}


def _free_memory() -> None:
    """Release cached memory: its fragments may not fit the next batch's tensors."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
