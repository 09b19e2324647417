"""Finds out why vLLM could not start, in whichever of its processes it was.

vLLM's own error is "Engine core initialization failed. See root cause above", and the cause is in
the middle of the log. All of vLLM's processes load its plugins first, and log the error that ends
them; a handler keeps those errors in a file, of which the first is the cause.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deployments.engines.sources import EngineStartError

_VARIABLE = "STARTUP_ERRORS_FILE"
"""Names the file; vLLM's processes inherit it."""

_MAX_CHARS = 500


class _StartupErrors(logging.Handler):
    def __init__(self, path: str) -> None:
        super().__init__(logging.ERROR)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return
        line = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_CHARS]
        with contextlib.suppress(OSError):  # the file is gone once the engine has started
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(file, f"{line}\n".encode())
            finally:
                os.close(file)


def keep_startup_errors() -> None:
    """Keep the errors that this process of vLLM logs. Safe to repeat."""
    path = os.environ.get(_VARIABLE)
    logger = logging.getLogger("vllm")
    if path and not any(isinstance(each, _StartupErrors) for each in logger.handlers):
        logger.addHandler(_StartupErrors(path))


@contextlib.contextmanager
def root_cause_of_failure() -> Iterator[None]:
    """Start vLLM within this block.

    Raises:
        EngineStartError: a process of vLLM failed; the message is its error.
        Exception: what else the block raises.
    """
    file, name = tempfile.mkstemp(prefix="vllm-errors-")
    os.close(file)
    path = Path(name)
    os.environ[_VARIABLE] = name
    try:
        yield
    except Exception as error:
        if lines := path.read_text().splitlines():
            raise EngineStartError(lines[0]) from error
        raise
    finally:
        del os.environ[_VARIABLE]
        path.unlink(missing_ok=True)
