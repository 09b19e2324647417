"""Logs of our packages: one line per record on stderr, which Ray forwards to the terminal."""

import logging
import sys
import traceback
from typing import Any

_PACKAGES = ("api", "deployments")


class _Formatter(logging.Formatter):
    """Formats tracebacks without `print`, because Serve's replacement of `print` mangles them."""

    def formatException(self, ei: Any) -> str:  # the library's name
        return "".join(traceback.format_exception(*ei)).rstrip()


def configure_logs() -> None:
    """Write records of our packages from level INFO. Called once in every replica."""
    # Serve replaces sys.stderr by a buffer that is lost when a replica's constructor raises.
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(_Formatter("triptych %(levelname)s %(name)s: %(message)s"))
    for package in _PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
