"""Which sizes a model draws in."""

from api.errors import InvalidRequestError
from deployments.config.diffusion import DiffusionOptions


def check_size(width_px: int, height_px: int, options: DiffusionOptions) -> None:
    """Hold a size against every rule of the model.

    Raises:
        InvalidRequestError: the first rule that it breaks, by name.
    """
    size, multiple_px = f"{width_px}x{height_px}", options.size_multiple_px
    if width_px % multiple_px or height_px % multiple_px:
        raise _refuse(
            f"width and height must be multiples of {multiple_px} for this model, and {size} is not"
        )
    if min(width_px, height_px) < options.min_size_px:
        least = f"{options.min_size_px}x{options.min_size_px}"
        raise _refuse(f"{size} is smaller than this model's minimum of {least}")
    if max(width_px, height_px) > options.max_size_px:
        most = f"{options.max_size_px}x{options.max_size_px}"
        raise _refuse(f"{size} is larger than this model's limit of {most}")
    if width_px * height_px > options.max_pixels:
        raise _refuse(f"{size} has more than this model's limit of {options.max_pixels} pixels")


def _refuse(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"Invalid value for 'size': {reason}.", param="size")


def fit_size(size: tuple[int, int], options: DiffusionOptions) -> tuple[int, int]:
    """The size of the model's that is nearest to a picture's, and of about its shape."""
    width, height = size
    shrink = min(
        1.0, options.max_size_px / max(size), (options.max_pixels / (width * height)) ** 0.5
    )
    multiple = options.size_multiple_px
    least = -(-options.min_size_px // multiple) * multiple
    fitted = [max(least, int(side * shrink) // multiple * multiple) for side in size]
    return fitted[0], fitted[1]
