"""The endpoints of embedding models, which have all but their dialects in common."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.types import Receive, Scope, Send

from api.access.admission import Permit, rate_limited
from api.access.request_context import build_request_context
from api.errors import InvalidRequestError
from api.http.body import read_json_body
from api.http.lifetime import deadline, while_connected
from api.http.parsing import Read, read_request
from api.http.response import send_bytes
from api.middleware.auth import get_key_for
from api.middleware.request_id import get_request_id
from api.ports.embeddings import EmbeddingBackend, Truncation
from api.ports.tenancy import RequestContext
from api.registry import Models
from api.schema.embeddings import EncoderRequest
from api.services import Services
from api.settings import Limits

Body = TypeVar("Body", bound=EncoderRequest)

Call = Callable[[EmbeddingBackend], Awaitable[bytes]]
"""Asks the model, and writes its answer as JSON."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a dialect needs to know beside the request."""

    request_id: str
    context: RequestContext
    limits: Limits

    def to_truncation(self, request: EncoderRequest) -> Truncation:
        """What becomes of inputs that are too long."""
        limit = request.truncate_prompt_tokens
        return Truncation(
            is_wanted=request.truncate or limit is not None,
            max_tokens=None if limit == -1 else limit,
            max_total_tokens=self.limits.max_embedding_tokens,
        )

    def check_count(self, count: int, param: str) -> None:
        """Refuse more inputs than the service takes.

        Raises:
            InvalidRequestError: they are more.
        """
        if count > self.limits.max_embedding_inputs:
            raise InvalidRequestError(
                f"Invalid value for '{param}': {count} inputs are more than the limit of "
                f"{self.limits.max_embedding_inputs}.",
                param=param,
            )


class EncoderEndpoint(Generic[Body]):
    """One endpoint: read → look up → call → write."""

    def __init__(
        self,
        name: str,
        schema: type[Body],
        prepare: Callable[[Body, Asked], Call],
        *,
        models: Models,
        rules: Services,
    ) -> None:
        """Serve the encoders among `models`.

        Args:
            name: its path without `/v1/`.
            schema: what its bodies are.
            prepare: its dialect; raises what is wrong with a request.
            models: where the encoders are.
            rules: what all endpoints keep to.
        """
        self._name = name
        self._schema = schema
        self._prepare = prepare
        self._models = models
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        rules = self._rules
        key = get_key_for(scope, "embeddings")
        body = await read_json_body(scope, receive, rules.limits)
        read = read_request(body, self._schema, rules.policy.parameters)
        context = build_request_context(
            key, read.request, endpoint=self._name, cache_salt=rules.cache_salt
        )
        asked = Asked(get_request_id(scope), context, rules.limits)
        call = self._prepare(read.request, asked)
        backend = self._models.for_key(key).get_embedding(read.request.model)
        async with rate_limited(rules.limiter, key) as place:
            await while_connected(receive, self._answer(read, call(backend), place, send))

    async def _answer(
        self, read: Read[Body], answering: Awaitable[bytes], place: Permit, send: Send
    ) -> None:
        async with deadline(self._rules.limits):
            body = await answering
        await send_bytes(send, body, headers={**read.headers(), **place.headers})
