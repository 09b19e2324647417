"""The `Dialect` that chat and completions share: JSON body, language model, optional stream."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from starlette.types import Receive, Scope

from api.endpoint import PreparedRequest, PreparedStream, RequestMeta
from api.errors import UnsupportedParameterError
from api.http.body import read_json_body
from api.http.parsing import ParsedRequest, read_request
from api.ports.prompt_log import PromptLog
from api.ports.tenancy import Scope as KeyScope
from api.ports.text import Completion, Generation, TextStream
from api.registry import Llm, Registry, UsagePlacement
from api.schema.common import TextRequest
from api.services import Services
from api.text.rendering import ChunkRenderer, ChunkStreamRenderer


@dataclass(frozen=True, slots=True)
class PreparedText:
    """A request translated for a language model, and the renderer of its answer."""

    generation: Generation
    renderer: ChunkRenderer
    usage_placement: UsagePlacement | None = None
    """Where a stream's usage goes; None leaves it out."""
    fetch: Callable[[], Awaitable[Generation]] | None = None
    """Fetches the images of `generation` and returns a copy with them; None if there are none."""


Prepare = Callable[[Any, Llm, RequestMeta, Services], PreparedText]
"""Checks and translates a request; raises InvalidRequestError."""


class TextDialect:
    """A `Dialect` for one of OpenAI's two text endpoints."""

    key_scope: KeyScope = "chat"

    def __init__(
        self,
        endpoint: str,
        schema: type[TextRequest],
        prepare: Prepare,
        services: Services,
        *,
        has_images: bool = False,
    ) -> None:
        """Serve the path `endpoint` (without `/v1/`) for bodies of `schema`.

        Args:
            endpoint: the path.
            schema: of its bodies.
            prepare: checks and translates a request.
            services: settings and ports.
            has_images: bodies may contain images.
        """
        self.endpoint = endpoint
        self._schema = schema
        self._prepare = prepare
        self._services = services
        self._has_images = has_images

    async def read_body(self, scope: Scope, receive: Receive) -> bytes:
        """Read a JSON body."""
        limits = self._services.limits
        return await read_json_body(scope, receive, limits, has_images=self._has_images)

    def parse(self, body: bytes) -> ParsedRequest[TextRequest]:
        """Validate each parameter by itself."""
        parsed = read_request(body, self._schema, self._services.policy.parameters)
        return replace(parsed, body=body) if parsed.request.log_prompt else parsed

    def resolve(self, registry: Registry, request: TextRequest) -> Llm:
        """Find the language model, and its LoRA adapter if the request names one."""
        return registry.get_llm(request.model, request.peft)

    def prepare(
        self, parsed: ParsedRequest[TextRequest], model: Llm, meta: RequestMeta
    ) -> PreparedRequest:
        """Check what needs the model or several parameters, and translate the request."""
        parsed = self._drop_unsupported(parsed, model.options.unsupported)
        request = parsed.request
        prompt_log = self._services.prompt_log if meta.may_log_prompts else None
        prepared = self._prepare(request, model, meta, self._services)

        async def load() -> Generation:
            generation = await prepared.fetch() if prepared.fetch else prepared.generation
            if request.log_prompt and prompt_log:
                prompt_log.keep(meta.request_id, request.model, parsed.body)
            return generation

        async def call() -> Completion:
            return await model.backend.complete(await load())

        async def open_stream() -> TextStream:
            return model.backend.stream(await load())

        stream = None
        if request.stream:
            renderer = ChunkStreamRenderer(prepared.renderer, prepared.usage_placement)
            stream = PreparedStream(open_stream, renderer)
        return PreparedRequest(
            meta.request_id,
            call=call,
            render=lambda completion: _render(prepared, completion),
            stream=stream,
            headers=_report_without_effect(parsed, prompt_log).headers(),
        )

    def _drop_unsupported(
        self, parsed: ParsedRequest[TextRequest], unsupported: frozenset[str]
    ) -> ParsedRequest[TextRequest]:
        """Apply the policy for unsupported parameters to those that this model cannot honour."""
        request = parsed.request
        names = [name for name in unsupported if name in request.model_fields_set]
        if not names:
            return parsed
        if self._services.policy.parameters == "strict":
            raise UnsupportedParameterError(
                f"The parameter '{names[0]}' is not supported by this model.", param=names[0]
            )
        fields = type(request).model_fields
        defaults = {name: fields[name].get_default(call_default_factory=True) for name in names}
        parsed = replace(parsed, request=request.model_copy(update=defaults))
        return parsed.add_without_effect(*names)


def _report_without_effect(
    parsed: ParsedRequest[TextRequest], prompt_log: PromptLog | None
) -> ParsedRequest[TextRequest]:
    names = []
    if parsed.request.log_prompt and prompt_log is None:
        names.append("log_prompt")
    options = parsed.request.stream_options
    if options is not None and options.include_obfuscation:
        names.append("stream_options.include_obfuscation")
    return parsed.add_without_effect(*names)


async def _render(prepared: PreparedText, completion: Completion) -> bytes:
    sampling = prepared.generation.sampling
    if sampling.logprobs is None and sampling.prompt_logprobs is None:
        return msgspec.json.encode(prepared.renderer.render(completion))
    # There may be millions of log probabilities, which would block the event loop.
    return await asyncio.to_thread(
        lambda: msgspec.json.encode(prepared.renderer.render(completion))
    )
