"""Which Redis keeps the limits: its URL from the configuration, else from the environment."""

import os

from deployments.config.urls import check_redis_url

_VARIABLE = "TRIPTYCH_REDIS_URL"


def find_redis_url(configured: str | None) -> str | None:
    """Return the URL of Redis; None if limits are kept in the home folder.

    Args:
        configured: The argument `redis` of the ledger, which comes first.

    Raises:
        ValueError: the variable is not a Redis URL. The message does not quote it: it may contain
            a password.
    """
    if configured is not None:
        return configured
    url = os.environ.get(_VARIABLE, "").strip() or None  # mounted secrets end with a newline
    if url is not None:
        try:
            check_redis_url(url)
        except ValueError as error:
            raise ValueError(f"{_VARIABLE}: {error}") from None
    return url
