"""From a request to batch settings: fills in the model's defaults, refuses what it cannot do."""

from dataclasses import dataclass
from typing import Literal, Protocol

from api.errors import InvalidRequestError, UnsupportedParameterError
from api.ports.images import ImageRequest, Lora
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.loras import check_loras

Mode = Literal["text2img", "img2img", "inpaint"]

_MOST_OWN_IMAGES = 20


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """What images must have in common to be generated in one batch."""

    mode: Mode
    width_px: int
    height_px: int
    steps: int
    """Diffusers' `num_inference_steps`."""
    steps_taken: int
    """Denoising steps that are really taken: fewer than `steps` where `strength` is below 1."""
    guidance: float | None
    """None if the model does not use guidance."""
    true_cfg: float | None = None
    """Weight of the negative prompt, for models where `guidance` means something else."""
    scheduler: str | None = None
    strength: float = 1.0
    loras: tuple[Lora, ...] = ()
    """Sorted by name, so that their order in the request makes no difference."""
    has_negative: bool = False
    """Some pipelines treat a missing negative prompt unlike an empty one."""

    @property
    def pixels(self) -> int:
        """Pixels of one image."""
        return self.width_px * self.height_px

    @property
    def pixel_steps(self) -> int:
        """What one image costs: its pixels times the steps that are really taken."""
        return self.pixels * self.steps_taken


class PipelineFeatures(Protocol):
    """What is known of a model's pipelines before a request is accepted."""

    @property
    def can_edit(self) -> bool:
        """Whether the model can start from an image."""

    @property
    def can_preview(self) -> bool:
        """Whether unfinished latents can be decoded, and parts of them replaced."""

    @property
    def has_guidance(self) -> bool:
        """Whether `guidance_scale` has an effect."""

    def accepts(self, parameter: str, mode: Mode = "text2img") -> bool:
        """Whether the pipeline of this mode has a parameter of that name."""

    def has_scale_noise(self, scheduler: str | None) -> bool:
        """Whether a scheduler is of diffusers' flow-matching classes; None is the model's own."""


def to_batch_settings(
    request: ImageRequest,
    size: tuple[int, int],
    pipelines: PipelineFeatures,
    options: DiffusionOptions,
) -> BatchSettings:
    """Derive the settings of a request's images.

    Args:
        request: the request.
        size: width and height in pixels, valid for the model.
        pipelines: what the model can do.
        options: the model's defaults.

    Raises:
        UnsupportedParameterError: the model does not have this parameter.
        InvalidRequestError: the model has the parameter, but does not take this value.
    """
    mode = _to_mode(request)
    _check_parameters(request, mode, pipelines)
    guidance = _to_guidance(request, pipelines, options)
    true_cfg = _to_true_cfg(request, mode, pipelines, options)
    _check_negative(request, guidance, true_cfg)
    steps = options.find_steps(request.num_inference_steps, request.quality)
    scheduler = _check_scheduler(request.scheduler, options)
    loras = check_loras(request.loras, options.loras)
    strength = 1.0
    if request.edit is not None and pipelines.accepts("strength", mode):
        strength = request.edit.strength or options.strength
    is_flow = mode != "text2img" and pipelines.has_scale_noise(scheduler)
    steps_taken = count_steps_taken(steps, strength, is_flow=is_flow)
    if steps_taken < 1:
        raise InvalidRequestError.value(
            "strength", f"{strength:g} of {steps} steps is less than one step"
        )
    return BatchSettings(
        mode=mode,
        width_px=size[0],
        height_px=size[1],
        steps=steps,
        steps_taken=steps_taken,
        guidance=guidance,
        true_cfg=true_cfg,
        scheduler=scheduler,
        strength=strength,
        loras=loras,
        has_negative=bool(request.negative_prompt),
    )


def find_max_pixel_steps(options: DiffusionOptions, native_px: int) -> int:
    """Return the limit of a request's pixel-steps: as configured, or that of 20 images.

    Args:
        options: the model's options.
        native_px: side of the images that the model was trained on.
    """
    own = native_px * native_px * options.num_inference_steps
    return options.max_pixel_steps or _MOST_OWN_IMAGES * own


def check_pixel_steps(
    request: ImageRequest, settings: BatchSettings, options: DiffusionOptions
) -> None:
    """Check what all images of a request cost together.

    Args:
        request: the request.
        settings: of each of its images.
        options: with a limit.

    Raises:
        InvalidRequestError: it is too much; names the parameter that makes it so.
    """
    pixel_steps, most = settings.pixel_steps * request.n, options.max_pixel_steps
    if most is None or pixel_steps <= most:
        return
    param = "num_inference_steps" if request.num_inference_steps else "size"
    if request.n > 1 and settings.pixel_steps <= most:
        param = "n"
    raise InvalidRequestError.value(
        param,
        f"{request.n} x {settings.width_px}x{settings.height_px} pixels x {settings.steps_taken} "
        f"steps are {pixel_steps} pixel-steps, more than the limit of {most}",
    )


def count_steps_taken(steps: int, strength: float, *, is_flow: bool = False) -> int:
    """Count the denoising steps that a pipeline takes: with less strength it starts later.

    Source: diffusers 0.42, `get_timesteps` of the img2img pipelines. Those of flow-matching models
    round up where the others round down.

    Args:
        steps: `num_inference_steps`.
        strength: from 0 to 1; 1 takes every step.
        is_flow: whether the pipeline is img2img with a flow-matching scheduler.
    """
    taken = min(steps * strength, steps)
    return steps - int(max(steps - taken, 0)) if is_flow else int(taken)


def _to_mode(request: ImageRequest) -> Mode:
    if request.edit is None:
        return "text2img"
    return "img2img" if request.edit.mask is None else "inpaint"


def _check_parameters(request: ImageRequest, mode: Mode, pipelines: PipelineFeatures) -> None:
    """Refuse parameters that the pipeline would ignore."""
    edit = request.edit
    if edit is not None and not pipelines.can_edit:
        raise _unsupported("image")
    if edit is not None and edit.mask is not None and not pipelines.can_preview:
        raise _unsupported("mask")
    if edit is not None and edit.strength is not None and not pipelines.accepts("strength", mode):
        raise _unsupported("strength")
    if request.previews and not pipelines.can_preview:
        raise _unsupported("partial_images")
    if request.guidance_scale is not None and not pipelines.has_guidance:
        raise _unsupported("guidance_scale")
    if request.negative_prompt and not pipelines.accepts("negative_prompt", mode):
        raise _unsupported("negative_prompt")


def _check_negative(request: ImageRequest, guidance: float | None, true_cfg: float | None) -> None:
    """Refuse a negative prompt without effect: guidance away from it begins above 1."""
    scale = guidance if true_cfg is None else true_cfg
    if request.negative_prompt and scale is not None and scale <= 1:
        name = "guidance_scale" if true_cfg is None else "true_cfg_scale"
        raise InvalidRequestError.value(
            "negative_prompt",
            f"it only has an effect with a '{name}' above 1, and here it is {scale:g}",
        )


def _to_guidance(
    request: ImageRequest, pipelines: PipelineFeatures, options: DiffusionOptions
) -> float | None:
    if not pipelines.has_guidance:
        return None
    return options.guidance_scale if request.guidance_scale is None else request.guidance_scale


def _to_true_cfg(
    request: ImageRequest, mode: Mode, pipelines: PipelineFeatures, options: DiffusionOptions
) -> float | None:
    """Return the scale where there is a negative prompt; neither has an effect alone."""
    if not pipelines.accepts("true_cfg_scale", mode):
        if request.true_cfg_scale is not None:
            raise _unsupported("true_cfg_scale")
        return None
    if request.negative_prompt:
        return request.true_cfg_scale or options.true_cfg_scale
    if request.true_cfg_scale is not None:
        raise InvalidRequestError.value(
            "true_cfg_scale", "it is only allowed with a 'negative_prompt'"
        )
    return None


def _check_scheduler(name: str | None, options: DiffusionOptions) -> str | None:
    if name is None or name in options.schedulers:
        return name
    known = ", ".join(options.schedulers) or "none, for this model has only its own"
    raise InvalidRequestError.value("scheduler", f"it must be one of: {known}")


def _unsupported(param: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(
        f"The parameter '{param}' is not supported by this model.", param=param
    )
