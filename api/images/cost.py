"""What images cost in pixel-steps, before their model has looked at the request."""

import re
from collections.abc import Mapping
from typing import Any

from api.ports.images import ImageRequest

_SIDE_PX, _STEPS = 1024, 30
"""For a model that has never been loaded, so that its defaults are not known."""


def count_pixel_steps(request: ImageRequest, capabilities: Mapping[str, Any]) -> int:
    """Count width × height × denoising steps of all images of a request.

    An edit that keeps a part of its image takes fewer steps; it counts as if it took all.

    Args:
        request: the request.
        capabilities: of its model.
    """
    width_px, height_px = _find_own_size(capabilities)
    steps = request.num_inference_steps
    if steps is None and request.quality is not None:
        steps = capabilities.get("qualities", {}).get(request.quality)
    if steps is None:
        steps = capabilities.get("num_inference_steps", _STEPS)
    pixels = (request.width_px or width_px) * (request.height_px or height_px)
    return pixels * int(steps) * request.n


def _find_own_size(capabilities: Mapping[str, Any]) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", str(capabilities.get("size")))
    return (int(match[1]), int(match[2])) if match else (_SIDE_PX, _SIDE_PX)
