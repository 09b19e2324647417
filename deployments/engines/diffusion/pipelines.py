"""diffusers' pipelines around one set of weights, run for one batch.

A pipeline keeps state while it runs, so one thread runs them, one batch at a time. For what leaves
a batch between two steps nothing is computed any more, unless the denoiser is compiled: for another
number of images it would be compiled anew.
"""

import functools
import gc
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deployments.config.diffusion import DiffusionOptions
from deployments.engines.cancellable_thread import WorkCancelledError
from deployments.engines.diffusion.batch_pruning import Attendance
from deployments.engines.diffusion.batcher import Canvas, Event, Mode, Recipe
from deployments.engines.diffusion.inpainting import Keeping, is_flowing
from deployments.engines.diffusion.latents import decode, find_multiple_px, is_readable
from deployments.engines.diffusion.loras import Loras
from deployments.engines.diffusion.pipeline_loading import (
    build_redrawing,
    build_schedulers,
    check_fitness,
    find_denoiser,
    find_native_px,
    load_pipeline,
    tune,
)

if TYPE_CHECKING:
    import torch


class Pipelines:
    """What draws: from nothing, or from a picture."""

    def __init__(self, model: str, options: DiffusionOptions) -> None:
        """Load; takes seconds to minutes.

        Args:
            model: a local folder in diffusers' layout.
            options: how to run it.

        Raises:
            Exception: whatever diffusers raises when it cannot load the model.
        """
        self.base: Any = load_pipeline(model, options)
        check_fitness(self.base)
        self._vae_dtype = self.base.vae.dtype
        # Before anything is moved to where it computes: adapters go with what they adapt.
        self._loras = Loras(self.base, options.loras)
        tune(self.base, options)
        self._attendance = None if options.compile else Attendance(find_denoiser(self.base))
        self._is_out_of_memory = False
        self._is_offloaded = options.offload != "none"
        self._schedulers = build_schedulers(self.base, options.schedulers)
        redrawing = build_redrawing(self.base)
        self._by_mode: dict[Mode, Any] = {
            "new": self.base,
            "redraw": redrawing,
            "inpaint": redrawing,
        }

    @property
    def scale(self) -> int:
        """Pixels to one element of the latents, along each side."""
        return int(self.base.vae_scale_factor)

    @property
    def native_px(self) -> int:
        """The side of the images that the model was trained on."""
        return find_native_px(self.base)

    @property
    def multiple_px(self) -> int:
        """What width and height must be multiples of."""
        return find_multiple_px(self.base)

    def count_steps(self, recipe: Recipe) -> int:
        """The steps that are really taken: redrawing begins in the middle."""
        steps = recipe.steps * recipe.strength
        if recipe.mode != "new" and is_flowing(self._schedulers[recipe.scheduler]):
            return recipe.steps - int(max(recipe.steps - min(steps, recipe.steps), 0))
        return min(int(steps), recipe.steps)

    def accepts(self, parameter: str, mode: Mode = "new") -> bool:
        """Whether the pipeline has a parameter of that name."""
        return parameter in inspect.signature(self._by_mode[mode].__call__).parameters

    def get_default(self, parameter: str) -> Any:
        """What the pipeline takes for a parameter that it is not given; None if it has none."""
        found = inspect.signature(self.base.__call__).parameters.get(parameter)
        return found.default if found is not None else None

    @property
    def can_edit(self) -> bool:
        """Whether it draws from a picture too."""
        return self._by_mode["redraw"] is not None

    @property
    def can_look_inside(self) -> bool:
        """Whether unfinished pictures can be looked at, and parts of them replaced."""
        return is_readable(self.base)

    @property
    def has_guidance(self) -> bool:
        """Whether `guidance_scale` means anything: some transformers are trained without it."""
        transformer = getattr(self.base, "transformer", None)
        config = transformer.config if transformer is not None else {}
        return self.accepts("guidance_scale") and config.get("guidance_embeds") is not False

    def draw(self, batch: Sequence[Canvas]) -> None:
        """Draw images of one recipe, and tell each canvas.

        Raises:
            WorkCancelledError: nobody wants any of them.
            Exception: whatever the pipeline raises.
        """
        import torch

        if self._is_out_of_memory:
            _make_room()
            self._is_out_of_memory = False
        try:
            self._draw(batch)
        except BaseException as error:
            # To be made up for by the next: until this one has been handled, it holds tensors.
            self._is_out_of_memory = isinstance(error, torch.OutOfMemoryError)
            self._put_in_order()
            raise

    def _put_in_order(self) -> None:
        """What pipelines do at their end only, which they have not reached."""
        self.base.maybe_free_model_hooks()  # brings what is offloaded back to where it waits
        if self.base.vae.dtype != self._vae_dtype:
            self.base.vae.to(self._vae_dtype)  # SDXL's computes in float32 for a while

    def _draw(self, batch: Sequence[Canvas]) -> None:
        mode = batch[0].recipe.mode
        pipeline = self._by_mode[mode]
        pipeline.scheduler = self._schedulers[batch[0].recipe.scheduler]
        self._loras.switch_to(batch[0].recipe.loras)
        run = _Run(pipeline, batch, self.count_steps(batch[0].recipe), self._attendance)
        with _seeded(pipeline.scheduler, run.generators):
            drawn = pipeline(**self._to_arguments(run, mode))
        for canvas, picture in zip(run.canvases, drawn.images, strict=True):
            if canvas.is_wanted:
                canvas.tell(Event(canvas.index, canvas.steps_done, picture, is_final=True))

    def encode(self, token_ids: "torch.Tensor") -> None:
        """Prove that the text encoder still computes."""
        import torch

        if self._is_offloaded:
            return  # the thread that draws may be moving it at this moment
        with torch.inference_mode():
            self.base.text_encoder(token_ids.to(self.base.text_encoder.device))

    def _to_arguments(self, run: "_Run", mode: Mode) -> dict[str, Any]:
        recipe, canvases = run.canvases[0].recipe, run.canvases
        arguments: dict[str, Any] = {
            "prompt": [canvas.prompt for canvas in canvases],
            "num_inference_steps": recipe.steps,
            "generator": run.generators,
            "callback_on_step_end": run.after_step,
            "callback_on_step_end_tensor_inputs": ["latents"],
            "output_type": "pil",
        }
        if recipe.guidance is not None:
            arguments["guidance_scale"] = recipe.guidance
        if recipe.true_cfg is not None:
            arguments["true_cfg_scale"] = recipe.true_cfg
        if recipe.has_negative:
            arguments["negative_prompt"] = [canvas.negative_prompt or "" for canvas in canvases]
        sizes = {"width": recipe.width_px, "height": recipe.height_px}
        arguments |= {name: px for name, px in sizes.items() if self.accepts(name, mode)}
        if self.accepts("use_resolution_binning", mode):
            arguments["use_resolution_binning"] = False  # the size is what was asked for
        if mode != "new":
            arguments["image"] = [canvas.image for canvas in canvases]
            if self.accepts("strength", mode):
                arguments["strength"] = recipe.strength
        return arguments


class _Run:
    """One batch under way: who is in it, and what happens between two steps."""

    def __init__(
        self, pipeline: Any, batch: Sequence[Canvas], steps: int, attendance: Attendance | None
    ) -> None:
        import torch

        self._steps = steps
        self.canvases = [canvas for canvas in batch if canvas.is_wanted]
        # On the CPU whatever the device, so that a seed means the same picture everywhere.
        self.generators = [torch.Generator("cpu").manual_seed(c.seed) for c in self.canvases]
        self._keeping = Keeping(pipeline, self.canvases) if batch[0].mask is not None else None
        self._attendance = attendance
        if attendance is not None:
            attendance.begin(len(self.canvases))

    def after_step(
        self, pipeline: Any, step: int, timestep: Any, values: dict[str, Any]
    ) -> dict[str, Any]:
        kept = [number for number, canvas in enumerate(self.canvases) if canvas.is_wanted]
        if not kept:
            raise WorkCancelledError
        if self._attendance is not None:
            self._attendance.keep(kept)
        latents = values["latents"]
        if self._keeping is not None:
            latents = self._keeping.restore(pipeline, step, latents)
        for number in kept:
            canvas = self.canvases[number]
            # Some schedulers call for two or more passes a step.
            canvas.steps_done = round((step + 1) * self._steps / pipeline.num_timesteps)
            row = latents[number : number + 1]
            canvas.tell_step(_look(pipeline, row, canvas) if canvas.is_looked_at else None)
        if step + 1 == pipeline.num_timesteps:  # what follows is for the pictures alone
            latents = latents[kept]
            self.canvases = [self.canvases[number] for number in kept]
        return {**values, "latents": latents}


@contextmanager
def _seeded(scheduler: Any, generators: "list[torch.Generator]") -> Iterator[None]:
    """Noise that a scheduler adds is of each image's own seed, where a pipeline forgets to say so.

    Those that flow do, and would take it from PyTorch's generator of all (diffusers 0.42).
    """
    step = scheduler.step
    if "generator" not in inspect.signature(step).parameters:
        yield
        return

    @functools.wraps(step)  # pipelines ask for its parameters
    def seeded(*args: Any, **kwargs: Any) -> Any:
        return step(*args, **{"generator": generators, **kwargs})

    scheduler.step = seeded
    try:
        yield
    finally:
        del scheduler.step


def _make_room() -> None:
    """Give back what a failed drawing has left: other sizes of tensors may not fit between."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def _look(pipeline: Any, row: "torch.Tensor", canvas: Canvas) -> Any:
    return decode(pipeline, row, canvas.recipe.width_px, canvas.recipe.height_px)
