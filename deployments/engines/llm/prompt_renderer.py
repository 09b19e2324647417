"""Prompts → vLLM's inputs: by the tokenizer alone if they are plain, else by vLLM's renderer."""

from typing import TYPE_CHECKING

from api.ports.tenancy import RequestContext
from api.ports.text import Conversation, Prompt, Sampling
from deployments.engines.llm.prompt_tokenizer import PromptTokenizer, is_plain
from deployments.engines.llm.tokenizing_check import check_before_tokenizing
from deployments.engines.llm.vllm_chat import ChatOptions, RenderedPrompt, VllmChat

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


class PromptRenderer:
    """Renders prompts for one engine."""

    def __init__(self, engine: "AsyncLLM", chat: ChatOptions, reasoning_parser: str | None) -> None:
        """Find the engine's tokenizer and parsers.

        Raises:
            TypeError: vLLM has no parser of that name, or the parser does not suit the model.
        """
        self._tokenizer = PromptTokenizer(engine.get_tokenizer(), engine.model_config.max_model_len)
        self._chat = VllmChat(engine, chat, reasoning_parser)
        check_before_tokenizing(engine.renderer, self._tokenizer.check_length)

    async def render(
        self, prompt: Prompt, sampling: Sampling, context: RequestContext, *, is_streamed: bool
    ) -> RenderedPrompt:
        """Render one prompt.

        Raises:
            ContextLengthExceededError: the prompt is far too long; others are not refused here.
            InvalidRequestError: a token id is not in the vocabulary, or the chat template refuses
                the messages.
            UnsupportedParameterError: the model does not support what the conversation needs.
        """
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import StructuredOutputsParams

        if isinstance(prompt, Conversation):
            self._chat.check(prompt)
            if not (self._chat.uses_plain_template and is_plain(prompt)):
                return await self._chat.render(prompt, sampling, context, is_streamed=is_streamed)
        token_ids = await self._tokenizer.to_ids(prompt, context)
        schema = sampling.json_schema
        return RenderedPrompt(
            tokens_input(token_ids),
            token_ids,
            StructuredOutputsParams(json=schema) if schema is not None else None,
            sampling.skip_special_tokens,
            new_choice_parser=None,
            request_arguments={},
        )

    def to_text(self, prompt: Prompt) -> str:
        """Return a prompt as text, token ids decoded; a conversation as the empty string."""
        return self._tokenizer.to_text(prompt)

    def shut_down(self) -> None:
        """End the thread of the tokenizer and the process that decodes images."""
        self._tokenizer.shut_down()
        self._chat.shut_down()
