"""Sizes that a model can generate."""

from api.errors import InvalidRequestError
from deployments.config.diffusion import DiffusionOptions


def check_size(width_px: int, height_px: int, options: DiffusionOptions) -> None:
    """Check a size against the model's limits.

    Raises:
        InvalidRequestError: names the first limit that the size breaks.
    """
    size, multiple_px = f"{width_px}x{height_px}", options.size_multiple_px
    if width_px % multiple_px or height_px % multiple_px:
        raise _refusal(
            f"width and height must be multiples of {multiple_px} for this model, and {size} is not"
        )
    if min(width_px, height_px) < options.min_size_px:
        smallest = f"{options.min_size_px}x{options.min_size_px}"
        raise _refusal(f"{size} is smaller than this model's minimum of {smallest}")
    if max(width_px, height_px) > options.max_size_px:
        largest = f"{options.max_size_px}x{options.max_size_px}"
        raise _refusal(f"{size} is larger than this model's limit of {largest}")
    if width_px * height_px > options.max_pixels:
        raise _refusal(f"{size} has more than this model's limit of {options.max_pixels} pixels")


def _refusal(reason: str) -> InvalidRequestError:
    return InvalidRequestError.value("size", reason)


def fit_size(size: tuple[int, int], options: DiffusionOptions) -> tuple[int, int]:
    """Return the valid size closest to an input image's, with about its aspect ratio.

    Args:
        size: width and height in pixels.
        options: the model's limits.
    """
    width, height = size
    shrink = min(
        1.0, options.max_size_px / max(size), (options.max_pixels / (width * height)) ** 0.5
    )
    multiple = options.size_multiple_px
    smallest = -(-options.min_size_px // multiple) * multiple
    fitted = [max(smallest, int(side * shrink) // multiple * multiple) for side in size]
    return fitted[0], fitted[1]
