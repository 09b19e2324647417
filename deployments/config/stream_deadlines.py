"""How long streams may last, and how long HAProxy lets them after it has been reloaded.

HAProxy is reloaded whenever the number of ingress replicas changes. Its old process then serves
the streams that it has, until `hard-stop-after` cuts them without an error event.
"""

import os
from collections.abc import Mapping

from deployments.config.serving_environment import load_serving_environment

HARD_STOP_VARIABLE = "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"

DRAINING_S = 60
"""Beyond `request_timeout_s` a stream needs time for its request body and for its last events."""


def find_hard_stop_s(environment: Mapping[str, str] = os.environ) -> float:
    """Return the seconds that HAProxy lets old streams; none if the variable is not a number.

    Where the variable is not set, `scripts/serve` will set it.
    """
    text = environment.get(HARD_STOP_VARIABLE)
    try:
        return float(load_serving_environment()[HARD_STOP_VARIABLE] if text is None else text)
    except ValueError:
        return 0.0
