"""Settings and optional services that all endpoints share.

`limits`, `policy`, `cold_start` and `image_fetcher` may be replaced while the application runs.
Endpoints therefore read them for each request, and keep none.
"""

from dataclasses import dataclass, field

from api.access.request_context import CacheSalt
from api.http.draining import Draining
from api.ports.images import ImageFetcher, ImageStore
from api.ports.prompt_log import PromptLog
from api.ports.rate_limits import Limiter
from api.settings import ColdStart, Limits, Policy


@dataclass(slots=True)
class Services:
    """Settings and ports; a port that is None is switched off."""

    limits: Limits = field(default_factory=Limits)
    policy: Policy = field(default_factory=Policy)
    cold_start: ColdStart = field(default_factory=ColdStart)
    prompt_log: PromptLog | None = None
    image_fetcher: ImageFetcher | None = None
    limiter: Limiter | None = None
    cache_salt: CacheSalt | None = None
    image_store: ImageStore | None = None
    draining: Draining = field(default_factory=Draining)
