"""Where the API keys come from: the environment, else the file that `scripts/serve` makes."""

import os

from api.auth import ApiKeys
from deployments.config import AuthArgs, find_home

_VARIABLE = "TRIPTYCH_API_KEYS"


class NoApiKeys(Exception):
    """Authentication is on, and there is no key."""


def load_api_keys(auth: AuthArgs) -> ApiKeys | None:
    """Read the keys; None when authentication is explicitly off.

    Raises:
        NoApiKeys: it is on, and there is none; the message says how to make one.
    """
    if not auth.required:
        return None
    keys = _read().replace(",", " ").split()
    if not keys:
        raise NoApiKeys(
            f"no API key is configured: set {_VARIABLE} to one or more, separated by commas, or "
            "run ./scripts/serve, which makes one (or set auth: {required: false} in the "
            "ingress's args, behind a gate of your own)"
        )
    return ApiKeys(keys)


def _read() -> str:
    if from_environment := os.environ.get(_VARIABLE):
        return from_environment
    path = find_home() / "api_key"
    return path.read_text() if path.is_file() else ""
