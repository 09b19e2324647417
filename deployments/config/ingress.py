"""The arguments of the HTTP ingress (`deployments.app:ingress`)."""

from typing import Annotated

from pydantic import Field

from api.settings import Limits, Policy
from deployments.config.base import Args


class AuthArgs(Args):
    """Who may use the service."""

    required: bool = Field(True, description="False lets everyone in: only behind another gate")


class PromptLogArgs(Args):
    """Prompts that may be kept."""

    folder: Annotated[str, Field(min_length=1)]
    retention_days: float = Field(30.0, gt=0, description="older files are deleted")


class ImageStoreArgs(Args):
    """Images that are fetched by URL."""

    folder: Annotated[str, Field(min_length=1)]
    max_bytes: int = Field(1024**3, ge=1024, description="of all files; the oldest go first")
    expires_s: float = Field(3600.0, gt=0, description="how long a URL works")
    base_url: str | None = Field(
        None, description="what URLs begin with, without /v1; the request's own host without"
    )


class IngressArgs(Args):
    """The HTTP face."""

    auth: AuthArgs = AuthArgs()
    limits: Limits = Limits()
    policy: Policy = Policy()
    prompt_log: PromptLogArgs | None = Field(
        None, description="where prompts go whose requests say log_prompt; none are kept without"
    )
    image_store: ImageStoreArgs | None = Field(
        None, description="where images go whose requests say response_format url; without, 400"
    )
    poll_interval_s: float = Field(
        2.0, gt=0, description="how often the set of models is looked up"
    )
