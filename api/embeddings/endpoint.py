"""The `Dialect` that the endpoints of embedding models share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.types import Receive, Scope

from api.endpoint import PreparedRequest, RequestMeta
from api.errors import InvalidRequestError
from api.http.body import read_json_body
from api.http.parsing import ParsedRequest, read_request
from api.ports.embeddings import EmbeddingBackend, Truncation
from api.ports.tenancy import Scope as KeyScope
from api.registry import Registry
from api.schema.embeddings import EncoderRequest
from api.services import Services
from api.settings import Limits

Request = TypeVar("Request", bound=EncoderRequest)


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call to an embedding model, and how its result is rendered."""

    call: Callable[[EmbeddingBackend], Awaitable[Any]]
    render: Callable[[Any], Awaitable[bytes]]


Prepare = Callable[[Request, RequestMeta, Limits], ModelCall]
"""Checks and translates a request; raises InvalidRequestError."""


class EmbeddingDialect(Generic[Request]):
    """A `Dialect` for a JSON body and a model that returns its whole result at once."""

    key_scope: KeyScope = "embeddings"

    def __init__(
        self,
        endpoint: str,
        schema: type[Request],
        prepare: Prepare[Request],
        services: Services,
    ) -> None:
        """Serve the path `endpoint` (without `/v1/`) for bodies of `schema`."""
        self.endpoint = endpoint
        self._schema = schema
        self._prepare = prepare
        self._services = services

    async def read_body(self, scope: Scope, receive: Receive) -> bytes:
        """Read a JSON body."""
        return await read_json_body(scope, receive, self._services.limits)

    def parse(self, body: bytes) -> ParsedRequest[Request]:
        """Validate each parameter by itself."""
        return read_request(body, self._schema, self._services.policy.parameters)

    def resolve(self, registry: Registry, request: Request) -> EmbeddingBackend:
        """Find the embedding model."""
        return registry.get_embedding(request.model)

    def prepare(
        self, parsed: ParsedRequest[Request], model: EmbeddingBackend, meta: RequestMeta
    ) -> PreparedRequest:
        """Check the number of inputs and translate the request."""
        prepared = self._prepare(parsed.request, meta, self._services.limits)
        return PreparedRequest(
            meta.request_id,
            call=lambda: prepared.call(model),
            render=prepared.render,
            headers=parsed.headers(),
        )


def to_truncation(request: EncoderRequest, limits: Limits) -> Truncation:
    """Translate how inputs that are too long are treated."""
    limit = request.truncate_prompt_tokens
    return Truncation(
        is_wanted=request.truncate or limit is not None,
        max_tokens=None if limit == -1 else limit,
        max_total_tokens=limits.max_embedding_tokens,
    )


def check_count(count: int, param: str, limits: Limits) -> None:
    """Check the number of inputs of one request.

    Raises:
        InvalidRequestError: there are more than the limit.
    """
    if count > limits.max_embedding_inputs:
        raise InvalidRequestError.value(
            param,
            f"{count} inputs are more than the limit of {limits.max_embedding_inputs}",
        )
