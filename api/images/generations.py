"""`POST /v1/images/generations`."""

from starlette.types import Receive, Scope

from api.endpoint import PreparedRequest, RequestMeta
from api.http.body import read_json_body
from api.http.parsing import ParsedRequest, read_request
from api.images.endpoint import prepare_images
from api.ports.tenancy import Scope as KeyScope
from api.registry import ImageModel, Registry
from api.schema.images import ImagesRequest
from api.services import Services


class GenerationDialect:
    """A `Dialect` for images generated from a prompt."""

    endpoint = "images/generations"
    key_scope: KeyScope = "images"

    def __init__(self, services: Services) -> None:
        """Serve with the limits and policy of `services`."""
        self._services = services

    async def read_body(self, scope: Scope, receive: Receive) -> bytes:
        """Read a JSON body."""
        return await read_json_body(scope, receive, self._services.limits)

    def parse(self, body: bytes) -> ParsedRequest[ImagesRequest]:
        """Validate each parameter by itself."""
        return read_request(body, ImagesRequest, self._services.policy.parameters)

    def resolve(self, registry: Registry, request: ImagesRequest) -> ImageModel:
        """Find the image model."""
        return registry.get_diffusion(request.model)

    def prepare(
        self, parsed: ParsedRequest[ImagesRequest], model: ImageModel, meta: RequestMeta
    ) -> PreparedRequest:
        """Check and translate the request."""
        return prepare_images(parsed, model, meta, self._services)
