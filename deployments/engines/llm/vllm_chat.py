"""Conversations → prompts, with vLLM's renderers and parsers for tools, reasoning and images."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from api.errors import InvalidImageError, InvalidRequestError, UnsupportedParameterError
from api.ports.tenancy import RequestContext
from api.ports.text import Conversation, ImageInput, Message, Sampling, Tools
from deployments.engines.images.reader import ImageReader
from deployments.engines.llm.forced_tool_calls import FORCED_ONLY, register_forced_only
from deployments.engines.llm.output_parsing import ChoiceParser
from deployments.engines.llm.tokenizing_check import CONTEXT
from deployments.engines.llm.vllm_errors import translate_errors

if TYPE_CHECKING:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.renderers.online_renderer import OnlineRenderer
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.engine.async_llm import AsyncLLM


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """Chat settings that are not in the model's folder."""

    tool_call_parser: str | None = None
    chat_template: str | None = None
    """The template itself, not its path."""
    max_image_pixels: int = 20_000_000


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A prompt as the engine takes it."""

    prompt: Any
    """vLLM's `EngineInput`."""
    token_ids: Sequence[int]
    structured_outputs: "StructuredOutputsParams | None"
    skip_special_tokens: bool
    new_choice_parser: Callable[[], ChoiceParser] | None
    """Makes the parser of one choice; None if the output is text only."""
    request_arguments: dict[str, Any]
    """Further arguments of `AsyncLLM.add_request`."""


class VllmChat:
    """Renders conversations for one engine."""

    def __init__(
        self, engine: "AsyncLLM", options: ChatOptions, reasoning_parser: str | None
    ) -> None:
        """Find the parsers.

        Args:
            engine: the engine that generates.
            options: of the model.
            reasoning_parser: name of vLLM's parser, if the model reasons.

        Raises:
            TypeError: vLLM has no parser of that name, or the parser does not suit the model.
        """
        from vllm.renderers.online_renderer import OnlineRenderer

        register_forced_only()
        self._options = options
        self._images = ImageReader(options.max_image_pixels, InvalidImageError)
        self._config = engine.model_config
        self._tokenizer = engine.get_tokenizer()
        # A forced call is JSON of its schema, whatever the model's own format: some formats allow
        # endless whitespace.
        self._forced, self._renderer = (
            OnlineRenderer(
                engine.model_config,
                engine.renderer,
                request_logger=None,
                chat_template=options.chat_template,
                chat_template_content_format="auto",
                enable_auto_tools=True,
                tool_parser=tool_parser,
                reasoning_parser=reasoning_parser,
            )
            for tool_parser in (FORCED_ONLY, options.tool_call_parser or FORCED_ONLY)
        )
        self._has_reasoning = reasoning_parser is not None
        self.uses_plain_template = (
            not self._has_reasoning
            and options.chat_template is None
            and not self._config.is_multimodal_model
            and type(engine.renderer).__name__ == "HfRenderer"
        )
        """Whether the tokenizer's own template is enough for a plain conversation."""

    def shut_down(self) -> None:
        """End the process that decodes images."""
        self._images.shut_down()

    def check(self, conversation: Conversation) -> None:
        """Check that the model supports what the conversation needs.

        Raises:
            InvalidRequestError: the model does not read images.
            UnsupportedParameterError: the model does not call tools by itself.
        """
        if not self._config.is_multimodal_model and _has_images(conversation):
            raise InvalidRequestError.value(
                "messages", "this model reads text only, and there is an image"
            )
        tools = conversation.tools
        if tools and tools.choice == "auto" and self._options.tool_call_parser is None:
            raise UnsupportedParameterError(
                "This model does not call tools by itself; 'tool_choice' must be 'none', "
                "'required' or name a function.",
                param="tool_choice",
            )

    async def render(
        self,
        conversation: Conversation,
        sampling: Sampling,
        context: RequestContext,
        *,
        is_streamed: bool,
    ) -> RenderedPrompt:
        """Render a conversation with the model's template.

        Raises:
            ContextLengthExceededError: the prompt is far too long; others are not refused here.
            InvalidRequestError: the template refuses the messages.
            InvalidImageError: an image cannot be read.
        """
        from vllm.exceptions import VLLMError

        is_forced = conversation.tools and conversation.tools.choice in ("required", "named")
        renderer = self._forced if is_forced else self._renderer
        request = await self._to_request(conversation, sampling)
        CONTEXT.set(context)
        try:
            with translate_errors("messages"):
                result = await renderer.render_chat(request)
        except (InvalidRequestError, VLLMError):
            raise
        except (ValueError, TypeError) as error:  # from Jinja, transformers or vLLM
            raise _template_error() from error
        if not isinstance(result, tuple):
            raise _template_error()
        _, (prompt,) = result
        new_parser = self._to_new_parser(request, renderer)
        arguments: dict[str, Any] = {}
        if self._has_reasoning and new_parser is not None:
            kwargs = renderer.effective_chat_template_kwargs(request)
            ended = request.resolve_reasoning_ended(new_parser(), prompt["prompt_token_ids"])
            arguments["reasoning_ended"] = ended
            arguments["reasoning_parser_kwargs"] = {"chat_template_kwargs": kwargs}
        # Forced calls are parsed as a stream even if there is only one delta: parsed as a whole, a
        # list of calls that `max_tokens` truncates would lose its complete calls too.
        parses_deltas = is_streamed or bool(is_forced and not self._has_reasoning)
        new_choice_parser = new_parser and partial(
            _new_choice_parser, new_parser, request, is_streamed=parses_deltas
        )
        return RenderedPrompt(
            prompt,
            prompt["prompt_token_ids"],
            request.extract_structured_outputs(),
            request.skip_special_tokens,
            new_choice_parser,
            arguments,
        )

    async def _to_request(
        self, conversation: Conversation, sampling: Sampling
    ) -> "ChatCompletionRequest":
        from vllm.sampling_params import StructuredOutputsParams

        schema = sampling.json_schema
        members: dict[str, Any] = {
            "messages": [{"role": "user", "content": ""}],
            "reasoning_effort": conversation.reasoning_effort,
            "chat_template_kwargs": dict(conversation.template_options) or None,
            "skip_special_tokens": sampling.skip_special_tokens,
            "structured_outputs": StructuredOutputsParams(json=schema) if schema else None,
        }
        if conversation.tools is not None:
            members |= _to_tool_members(conversation.tools)
        with translate_errors("tools"):
            request = _request_class()(**members)
        # Set afterwards: vLLM's validation of messages copies them, and costs more than all else.
        request.messages = [await self._to_message(message) for message in conversation.messages]
        return request

    async def _to_message(self, message: Message) -> Any:
        converted: dict[str, Any] = {"role": message.role, "content": message.content}
        if isinstance(message.content, tuple):
            converted["content"] = [await self._to_part(part) for part in message.content]
        if message.name:
            converted["name"] = message.name
        if message.reasoning:
            converted["reasoning"] = message.reasoning
        if message.tool_call_id:
            converted["tool_call_id"] = message.tool_call_id
        if message.tool_calls:
            converted["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in message.tool_calls
            ]
        return converted

    async def _to_part(self, part: str | ImageInput) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        image = await self._images.read(part.data, "messages")
        return {"type": "image_pil", "image_pil": await asyncio.to_thread(image.convert, "RGB")}

    def _to_new_parser(
        self, request: "ChatCompletionRequest", renderer: "OnlineRenderer"
    ) -> Callable[[], Any] | None:
        parser = renderer.parser
        has_tools = bool(request.tools) and request.tool_choice != "none"
        if parser is None or not (self._has_reasoning or has_tools):
            return None
        return partial(
            parser,
            self._tokenizer,
            request.tools,
            chat_template_kwargs=renderer.effective_chat_template_kwargs(request),
            model_config=self._config,
        )


@cache
def _request_class() -> "type[ChatCompletionRequest]":
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.renderers import TokenizeParams

    class Request(ChatCompletionRequest):
        """Skips vLLM's length check: our own reports both lengths."""

        def build_tok_params(self, model_config: Any) -> TokenizeParams:
            return TokenizeParams(max_total_tokens=None, add_special_tokens=False)

    return Request


def _new_choice_parser(
    new_parser: Callable[[], Any], request: "ChatCompletionRequest", *, is_streamed: bool
) -> ChoiceParser:
    return ChoiceParser(new_parser(), request, is_streamed=is_streamed)


def _to_tool_members(tools: Tools) -> dict[str, Any]:
    functions = [
        {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            # A forced call is constrained to its schema: the model may not be inclined to make it.
            "strict": True if tools.choice in ("required", "named") else tool.strict,
        }
        for tool in tools.tools
    ]
    named = {"type": "function", "function": {"name": tools.name}}
    return {
        "tools": [{"type": "function", "function": function} for function in functions],
        "tool_choice": named if tools.choice == "named" else tools.choice,
        "parallel_tool_calls": tools.is_parallel,
    }


def _has_images(conversation: Conversation) -> bool:
    return any(isinstance(message.content, tuple) for message in conversation.messages)


def _template_error() -> InvalidRequestError:
    return InvalidRequestError.value(
        "messages", "this model's chat template does not take this sequence of messages"
    )
