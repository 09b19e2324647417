"""LiteLLM's `custom_auth` hook of the stack litellm-no-db: one key, with limits that it counts.

It is copied beside LiteLLM's configuration and runs in LiteLLM's environment.
"""

import hmac

from fastapi import Request
from litellm.proxy._types import UserAPIKeyAuth, hash_token

KEY = "sk-benchmark-virtual"
LIMITS = {"rpm_limit": 1_000_000_000, "tpm_limit": 1_000_000_000, "max_parallel_requests": 100_000}
HASH = hash_token(KEY)


async def authenticate(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Return the key's limits; LiteLLM calls this for every request."""
    if not hmac.compare_digest(api_key, KEY):
        raise PermissionError("not the key")
    return UserAPIKeyAuth(api_key=HASH, **LIMITS)
