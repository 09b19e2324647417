"""`POST /v1/images/generations`."""

from starlette.types import Receive, Scope, Send

from api.http.body import read_json_body
from api.http.parsing import read_request
from api.images.endpoint import Exchange, ImageFlow
from api.middleware.auth import get_key_for
from api.registry import Models
from api.schema.images import ImagesRequest
from api.services import Services


class GenerateImages:
    """The endpoint: read → look up → call → write."""

    def __init__(self, models: Models, rules: Services) -> None:
        """Serve the diffusion models among `models`."""
        self._flow = ImageFlow(models, rules, "images/generations")
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        key = get_key_for(scope, "images")
        body = await read_json_body(scope, receive, self._rules.limits)
        read = read_request(body, ImagesRequest, self._rules.policy.parameters)
        await self._flow.answer(Exchange(scope, receive, send), key, read)
