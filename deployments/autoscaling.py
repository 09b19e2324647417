"""How many replicas an image model needs: by the image-steps that are still to take.

A request for ten images of 50 steps is more work than a hundred of one image and 4 steps, so the
number of requests says little. Each replica reports its steps; Serve collects them, averages them
over `look_back_period_s`, and asks the policy below. Its answer is not the last word: around every
policy Serve applies `upscaling_factor` and `downscaling_factor`, the delays, `min_replicas` and
`max_replicas`, and starts from no replicas by itself as soon as a request waits (Ray 2.60:
serve/autoscaling_policy.py, `_apply_autoscaling_config`).

Serve pickles this module by value and unpickles it in its controller: it imports none of ours.
"""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

IMAGE_STEPS = "image_steps"
"""The name of the figure that replicas report."""


class QueuedImageSteps:
    """A policy: so many replicas that each has about `target_steps` before it."""

    def __init__(self, target_steps: float = 240.0, request_steps: float = 30.0) -> None:
        """Take what stands under `policy_kwargs` in the configuration.

        Args:
            target_steps: image-steps that a replica may have before it, those it is drawing
                included; 240 are eight images of 30 steps, a full batch.
            request_steps: what a request is taken for that no replica has seen yet.

        Raises:
            ValueError: one of them is not a positive number.
        """
        for name, value in (("target_steps", target_steps), ("request_steps", request_steps)):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number")
        self._target_steps = target_steps
        self._request_steps = request_steps

    def __call__(self, context: "AutoscalingContext") -> tuple[float, dict[str, Any]]:
        """The number of replicas, not yet rounded, and no state of its own."""
        running = context.running_replicas
        if not running:  # the first one is on its way, or none is wanted
            return context.target_num_replicas, {}
        reported = (context.aggregated_metrics or {}).get(IMAGE_STEPS) or {}
        unseen = context.total_queued_requests if reported else context.total_num_requests
        steps = sum(reported.values()) + (unseen or 0.0) * self._request_steps
        wanted = steps / self._target_steps
        if context.total_num_requests > 0:
            wanted = max(wanted, 1.0)  # no step is left of it, but it has not got its answer
        if any(replica not in reported for replica in running):
            # It may have much to do: nobody is sent away before all have reported.
            wanted = max(wanted, context.target_num_replicas)
        return wanted, {}
