"""How long streams may last, and how long HAProxy lets them after it has been reloaded.

HAProxy is reloaded whenever the number of ingress replicas changes. Its old process then serves
the streams that it has, until `hard-stop-after` cuts them without an error event.
"""

import os
from collections.abc import Mapping

HARD_STOP_VARIABLE = "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"
HARD_STOP_S = 720
"""For the default of `request_timeout_s`, 600 s; Serve's own default is 120 s."""

DRAINING_S = 60
"""Beyond `request_timeout_s` a stream needs time for its request body and for its last events."""


def find_hard_stop_s(environment: Mapping[str, str] = os.environ) -> float:
    """Return the seconds that HAProxy lets old streams; none if the variable is not a number."""
    try:
        return float(environment.get(HARD_STOP_VARIABLE, HARD_STOP_S))
    except ValueError:
        return 0.0
