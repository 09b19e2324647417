"""From a request to a recipe: the model's defaults filled in, what it does not have refused."""

from dataclasses import replace

from api.errors import InvalidRequestError, UnsupportedParameterError
from api.ports.images import ImageRequest
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.batcher import Mode, Recipe
from deployments.engines.diffusion.loras import check_loras
from deployments.engines.diffusion.pipelines import Pipelines


def to_recipe(
    request: ImageRequest,
    size: tuple[int, int],
    pipelines: Pipelines,
    options: DiffusionOptions,
) -> Recipe:
    """What a request's images have in common with those that they may be drawn together with.

    Raises:
        UnsupportedParameterError: the model has no such thing.
        InvalidRequestError: it has, but not of this value.
    """
    mode = _to_mode(request)
    _check_parameters(request, mode, pipelines)
    guidance = _to_guidance(request, pipelines, options)
    true_cfg = _to_true_cfg(request, mode, pipelines, options)
    _check_negative(request, guidance, true_cfg)
    recipe = Recipe(
        mode=mode,
        width_px=size[0],
        height_px=size[1],
        steps=options.find_steps(request.num_inference_steps, request.quality),
        guidance=guidance,
        true_cfg=true_cfg,
        scheduler=_check_scheduler(request.scheduler, options),
        loras=check_loras(request.loras, options.loras),
        has_negative=bool(request.negative_prompt),
    )
    if request.edit is not None and pipelines.accepts("strength", mode):
        recipe = replace(recipe, strength=request.edit.strength or options.strength)
    if pipelines.count_steps(recipe) < 1:
        raise InvalidRequestError(
            f"Invalid value for 'strength': {recipe.strength:g} of {recipe.steps} steps is "
            "less than one step.",
            param="strength",
        )
    return recipe


def _to_mode(request: ImageRequest) -> Mode:
    if request.edit is None:
        return "new"
    return "redraw" if request.edit.mask is None else "inpaint"


def _check_parameters(request: ImageRequest, mode: Mode, pipelines: Pipelines) -> None:
    """Refuse what the pipeline would take no notice of."""
    edit = request.edit
    if edit is not None and not pipelines.can_edit:
        raise _unsupported("image")
    if edit is not None and edit.mask is not None and not pipelines.can_look_inside:
        raise _unsupported("mask")
    if edit is not None and edit.strength is not None and not pipelines.accepts("strength", mode):
        raise _unsupported("strength")
    if request.previews and not pipelines.can_look_inside:
        raise _unsupported("partial_images")
    if request.guidance_scale is not None and not pipelines.has_guidance:
        raise _unsupported("guidance_scale")
    if request.negative_prompt and not pipelines.accepts("negative_prompt", mode):
        raise _unsupported("negative_prompt")


def _check_negative(request: ImageRequest, guidance: float | None, true_cfg: float | None) -> None:
    """Guidance leads away from it, which begins above 1."""
    strength = guidance if true_cfg is None else true_cfg
    if request.negative_prompt and strength is not None and strength <= 1:
        name = "guidance_scale" if true_cfg is None else "true_cfg_scale"
        raise InvalidRequestError(
            f"Invalid value for 'negative_prompt': it is only heeded with a '{name}' above 1, and "
            f"here it is {strength:g}.",
            param="negative_prompt",
        )


def _to_guidance(
    request: ImageRequest, pipelines: Pipelines, options: DiffusionOptions
) -> float | None:
    if not pipelines.has_guidance:
        return None
    return options.guidance_scale if request.guidance_scale is None else request.guidance_scale


def _to_true_cfg(
    request: ImageRequest, mode: Mode, pipelines: Pipelines, options: DiffusionOptions
) -> float | None:
    """Without it, these pipelines take no notice of a negative prompt; nor of it without one."""
    if not pipelines.accepts("true_cfg_scale", mode):
        if request.true_cfg_scale is not None:
            raise _unsupported("true_cfg_scale")
        return None
    if request.negative_prompt:
        return request.true_cfg_scale or options.true_cfg_scale
    if request.true_cfg_scale is not None:
        raise InvalidRequestError(
            "Invalid value for 'true_cfg_scale': it is only allowed with a 'negative_prompt'.",
            param="true_cfg_scale",
        )
    return None


def _check_scheduler(name: str | None, options: DiffusionOptions) -> str | None:
    if name is None or name in options.schedulers:
        return name
    known = ", ".join(options.schedulers) or "none, for this model has only its own"
    raise InvalidRequestError(
        f"Invalid value for 'scheduler': it must be one of: {known}.", param="scheduler"
    )


def _unsupported(param: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(
        f"The parameter '{param}' is not supported by this model.", param=param
    )
