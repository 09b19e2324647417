"""Sizes that a model can generate."""

import math

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


def fit_size(size: tuple[int, int], native_px: int, options: DiffusionOptions) -> tuple[int, int]:
    """Return the model's own size with an input image's aspect ratio: what an edit has by default.

    It never has more pixels than an image without a size, whatever the input, unless a square of
    the smallest size has. Where the limits of sides do not allow the aspect ratio, they come first.

    Args:
        size: of the input image, width and height in pixels.
        native_px: side of the images that the model was trained on.
        options: the model's limits.
    """
    budget = min(native_px * native_px, options.max_pixels)
    multiple = options.size_multiple_px
    smallest = -(-options.min_size_px // multiple) * multiple

    def clamp(side_px: int) -> int:
        return max(smallest, min(side_px, options.max_size_px) // multiple * multiple)

    short, long = sorted(size)
    half = multiple // 2  # rounds to the nearest multiple, where the budget allows it
    short_px = clamp(math.isqrt(budget * short // long) + half)
    long_px = clamp(min(math.isqrt(budget * long // short) + half, budget // short_px))
    return (short_px, long_px) if size[0] <= size[1] else (long_px, short_px)
