"""The arguments of the HTTP ingress (`deployments.app:ingress`)."""

from typing import Annotated

from pydantic import Field

from api.settings import ColdStart, Limits, Policy
from deployments.config.base import Args


class AuthArgs(Args):
    """Authentication of clients."""

    required: bool = Field(
        True,
        description="`false` accepts requests without a key: only behind a gateway that "
        "authenticates",
    )


class PromptLogArgs(Args):
    """The log of request bodies."""

    folder: Annotated[str, Field(min_length=1)] = Field(description="where the log files go")
    retention_days: float = Field(30.0, gt=0, description="days until a file is deleted")


class ImageStoreArgs(Args):
    """The store of images that clients fetch by URL."""

    folder: Annotated[str, Field(min_length=1)] = Field(
        description="where the images go; all ingress replicas must see it"
    )
    max_bytes: int = Field(
        1024**3, ge=1024, description="most bytes of all files; the oldest are deleted first"
    )
    expires_s: float = Field(3600.0, gt=0, description="how long a URL works")
    base_url: str | None = Field(
        None, description="what URLs begin with, without `/v1`; without it the host of the request"
    )


class IngressArgs(Args):
    """The arguments of the HTTP ingress."""

    live_keys = frozenset({"limits", "policy", "cold_start"})

    auth: AuthArgs = Field(AuthArgs(), description="authentication")
    limits: Limits = Field(Limits(), description="limits of one request")
    policy: Policy = Field(Policy(), description="how requests are treated")
    cold_start: ColdStart = Field(
        ColdStart(), description="how requests wait for a model that is not loaded"
    )
    prompt_log: PromptLogArgs | None = Field(
        None, description="keep bodies of requests with `log_prompt`; without it none are kept"
    )
    image_store: ImageStoreArgs | None = Field(
        None,
        description="keep images for `response_format: url`; without it such a request is a 400",
    )
    poll_interval_s: float = Field(
        2.0, gt=0, description="how often to look for new, changed and removed models"
    )
