"""Plain prompts → token ids, with the tokenizer's own chat template."""

import copy
from typing import Any

from jinja2 import TemplateError

from api.errors import InvalidRequestError
from api.ports.text import Conversation, Prompt
from deployments.engines.llm.text_encoder import TextEncoder, find_backend
from deployments.engines.tokenizer_thread import TokenizerThread


class PromptTokenizer:
    """One model's tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """Use a tokenizer of transformers."""
        self._tokenizer = tokenizer
        self._vocabulary_size = len(tokenizer)
        # A copy, because a fast tokenizer must not be used by two threads at once.
        copied = copy.deepcopy(tokenizer)
        backend = find_backend(copied)
        self._thread = TokenizerThread(
            TextEncoder(tokenizer, backend), TextEncoder(copied, backend)
        )

    async def to_ids(self, prompt: Prompt) -> list[int]:
        """Tokenize a prompt, with special tokens. A conversation must be plain (`is_plain`).

        Raises:
            InvalidRequestError: a token id is not in the vocabulary, or the chat template refuses
                the roles.
        """
        if isinstance(prompt, tuple):
            if max(prompt) >= self._vocabulary_size:
                raise InvalidRequestError.value(
                    "prompt", f"this model's token ids end at {self._vocabulary_size - 1}"
                )
            return list(prompt)
        return await self._thread.run(
            _count_chars(prompt), lambda encoder, stop: _encode(encoder, prompt)
        )

    def to_text(self, prompt: Prompt) -> str:
        """Return a prompt as text, token ids decoded; a conversation as the empty string."""
        if isinstance(prompt, tuple):
            return str(self._tokenizer.decode(list(prompt)))
        return prompt if isinstance(prompt, str) else ""

    def shut_down(self) -> None:
        """End the tokenizer's thread."""
        self._thread.shut_down()


def is_plain(conversation: Conversation) -> bool:
    """Whether a conversation is text only: no tools, images, reasoning or template options."""
    return not (
        conversation.tools or conversation.reasoning_effort or conversation.template_options
    ) and not any(
        message.tool_calls
        or message.tool_call_id
        or message.reasoning
        or isinstance(message.content, tuple)
        for message in conversation.messages
    )


def _count_chars(prompt: str | Conversation) -> int:
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(message.content or "") for message in prompt.messages)


def _encode(encoder: TextEncoder, prompt: str | Conversation) -> list[int]:
    if isinstance(prompt, str):
        return encoder.encode(prompt)
    return _encode_conversation(encoder, prompt)


def _encode_conversation(encoder: TextEncoder, conversation: Conversation) -> list[int]:
    messages = [
        {"role": message.role, "content": message.content}
        | ({"name": message.name} if message.name else {})
        for message in conversation.messages
    ]
    try:
        return encoder.encode_conversation(messages)
    except TemplateError:
        raise InvalidRequestError.value(
            "messages", "this model's chat template does not take this sequence of roles"
        ) from None
    except ValueError:
        raise InvalidRequestError(
            "This model has no chat template; use /v1/completions.", param="model"
        ) from None
