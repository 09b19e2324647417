"""One line a record, on the replica's stderr, which Ray shows where the service was started."""

import logging
import sys
import traceback
from typing import Any

_PACKAGES = ("api", "deployments")


class _Formatter(logging.Formatter):
    """Writes tracebacks without `print`, which Serve replaces by one that mangles them."""

    def formatException(self, ei: Any) -> str:  # the name is the library's
        return "".join(traceback.format_exception(*ei)).rstrip()


def configure_logs() -> None:
    """Write what our packages log, from INFO on. Called once in every replica."""
    # Serve replaces sys.stderr with a buffer that dies with a replica whose constructor raises.
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(_Formatter("triptych %(levelname)s %(name)s: %(message)s"))
    for package in _PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
