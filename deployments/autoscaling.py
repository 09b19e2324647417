"""Autoscaling policies: replicas follow the work that is pending, not the number of requests.

Ten images of 50 steps are more work than a hundred requests for one image of 4 steps, and a prompt
of 30,000 tokens more than a hundred greetings. Each replica reports its pending work; Serve
averages it over `look_back_period_s` and calls the policy below. Around every policy Serve applies
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
TOKENS = "tokens"
"""Names of the metrics that replicas report."""


class _PendingWork:
    """Wants as many replicas as give each about `target` units of pending work."""

    def __init__(self, metric: str, target: float, request: float) -> None:
        """Follow a metric.

        Args:
            metric: its name.
            target: units per replica.
            request: units assumed for a request that no replica has received yet.
        """
        self._metric = metric
        self._target = target
        self._request = request

    def __call__(self, context: "AutoscalingContext") -> tuple[float, dict[str, Any]]:
        """Return the wanted number of replicas, not rounded, and no policy state."""
        running = context.running_replicas
        if not running:  # the first one is starting, or none is wanted
            return context.target_num_replicas, {}
        reported = (context.aggregated_metrics or {}).get(self._metric) or {}
        unreported = context.total_queued_requests if reported else context.total_num_requests
        work = sum(reported.values()) + (unreported or 0.0) * self._request
        wanted = work / self._target
        if context.total_num_requests > 0:
            wanted = max(wanted, 1.0)  # a request without pending work still awaits its response
        if any(replica not in reported for replica in running):
            # A replica that has not reported may be busy: do not scale down until all have.
            wanted = max(wanted, context.target_num_replicas)
        return wanted, {}


class QueuedImageSteps(_PendingWork):
    """For image models: the image-steps that waiting and running requests still need."""

    def __init__(self, target_steps: float = 240.0, request_steps: float = 30.0) -> None:
        """Configure the policy by the `policy_kwargs` of the configuration.

        Args:
            target_steps: pending image-steps per replica, running ones included; 240 are eight
                images of 30 steps, which is a full batch.
            request_steps: image-steps assumed for a request that no replica has received yet.

        Raises:
            ValueError: one of them is not a positive number.
        """
        _check_positive(target_steps=target_steps, request_steps=request_steps)
        super().__init__(IMAGE_STEPS, target_steps, request_steps)


class QueuedTokens(_PendingWork):
    """For language models: the tokens that waiting and running requests have, or will have."""

    def __init__(self, target_tokens: float, request_tokens: float = 1000.0) -> None:
        """Configure the policy by the `policy_kwargs` of the configuration.

        Args:
            target_tokens: tokens of prompts and answers per replica, of running and waiting
                requests; above the size of its KV cache, which vLLM logs, requests wait.
            request_tokens: tokens assumed for a request that no replica has received yet.

        Raises:
            ValueError: one of them is not a positive number.
        """
        _check_positive(target_tokens=target_tokens, request_tokens=request_tokens)
        super().__init__(TOKENS, target_tokens, request_tokens)


def _check_positive(**options: Any) -> None:
    for name, value in options.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number")
