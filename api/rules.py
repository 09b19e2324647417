"""What the operator has decided about requests, whatever the model."""

from dataclasses import dataclass, field

from api.image_files import ImageStore
from api.image_input import ImageFetcher
from api.limits import Limits
from api.origin import Salt
from api.policy import Policy
from api.prompt_log import PromptLog
from api.rate_limits import Limiter


@dataclass(frozen=True, slots=True)
class Rules:
    """How large requests may be, what becomes of what cannot be honoured, what is kept."""

    limits: Limits = field(default_factory=Limits)
    policy: Policy = field(default_factory=Policy)
    prompt_log: PromptLog | None = None
    image_fetcher: ImageFetcher | None = None
    limiter: Limiter | None = None
    salt: Salt | None = None
    image_store: ImageStore | None = None
