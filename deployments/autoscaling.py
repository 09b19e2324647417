"""Autoscaling policy for image models: replicas follow the image-steps that are still pending.

Ten images of 50 steps are more work than a hundred requests for one image of 4 steps, so the number
of requests says little. Each replica reports its pending steps; Serve averages them over
`look_back_period_s` and calls the policy below. Around every policy Serve applies
`upscaling_factor`, `downscaling_factor`, the delays, `min_replicas` and `max_replicas`, and it
starts the first replica by itself as soon as a request waits (Ray 2.60:
serve/autoscaling_policy.py, `_apply_autoscaling_config`).

Serve pickles this module by value and unpickles it in its controller, so it must not import our
other modules.
"""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

IMAGE_STEPS = "image_steps"
"""Name of the metric that replicas report."""


class QueuedImageSteps:
    """Wants as many replicas as give each about `target_steps` pending image-steps."""

    def __init__(self, target_steps: float = 240.0, request_steps: float = 30.0) -> None:
        """Configure the policy by the `policy_kwargs` of the configuration.

        Args:
            target_steps: pending image-steps per replica, running ones included; 240 are eight
                images of 30 steps, which is a full batch.
            request_steps: image-steps assumed for a request that no replica has received yet.

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
        """Return the wanted number of replicas, not rounded, and no policy state."""
        running = context.running_replicas
        if not running:  # the first one is starting, or none is wanted
            return context.target_num_replicas, {}
        reported = (context.aggregated_metrics or {}).get(IMAGE_STEPS) or {}
        unreported = context.total_queued_requests if reported else context.total_num_requests
        steps = sum(reported.values()) + (unreported or 0.0) * self._request_steps
        wanted = steps / self._target_steps
        if context.total_num_requests > 0:
            wanted = max(wanted, 1.0)  # a request without pending steps still awaits its response
        if any(replica not in reported for replica in running):
            # A replica that has not reported may be busy: do not scale down until all have.
            wanted = max(wanted, context.target_num_replicas)
        return wanted, {}
