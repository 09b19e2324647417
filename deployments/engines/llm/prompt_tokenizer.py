"""Prompts of text → token ids, off the event loop where that takes long."""

import asyncio
import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from api.errors import InvalidRequestError
from api.ports.text import Conversation, Prompt

_INLINE_CHARS = 2000
"""Shorter prompts are tokenised on the event loop, in less time than a thread takes to start."""


class PromptTokenizer:
    """One model's tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a tokenizer of transformers."""
        self.tokenizer = tokenizer
        # A copy, because a fast tokenizer cannot be used by two threads at once.
        self._threads_tokenizer = copy.deepcopy(tokenizer)
        self._vocabulary = len(tokenizer)
        self._threads = ThreadPoolExecutor(1, "tokenizer")

    async def to_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, special tokens included; a conversation must be simple.

        Raises:
            InvalidRequestError: a token id is not in the vocabulary, or the template refuses the roles.
        """
        if isinstance(prompt, tuple):
            if max(prompt) >= self._vocabulary:
                raise InvalidRequestError(
                    f"Invalid value for 'prompt': this model's token ids end at "
                    f"{self._vocabulary - 1}.",
                    param="prompt",
                )
            return list(prompt)
        if _count_chars(prompt) < _INLINE_CHARS:
            return _encode(self.tokenizer, prompt)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _encode, self._threads_tokenizer, prompt)

    def to_text(self, prompt: Prompt) -> str:
        """A text as it is, token ids as text; nothing for a conversation."""
        if isinstance(prompt, tuple):
            return str(self.tokenizer.decode(list(prompt)))
        return prompt if isinstance(prompt, str) else ""

    def shut_down(self) -> None:
        """End its thread."""
        self._threads.shutdown(wait=False)


def is_simple(conversation: Conversation) -> bool:
    """Texts only: no tools, no pictures, and no wishes for the template."""
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


def _encode(tokenizer: Any, prompt: str | Conversation) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer.encode(prompt))
    return _encode_conversation(tokenizer, prompt)


def _encode_conversation(tokenizer: Any, conversation: Conversation) -> list[int]:
    from jinja2 import TemplateError

    messages = [
        {"role": message.role, "content": message.content}
        | ({"name": message.name} if message.name else {})
        for message in conversation.messages
    ]
    try:
        token_ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError:
        raise InvalidRequestError(
            "Invalid value for 'messages': this model's chat template does not take this "
            "sequence of roles.",
            param="messages",
        ) from None
    except ValueError:
        raise InvalidRequestError(
            "This model has no chat template; use /v1/completions.", param="model"
        ) from None
    return list(token_ids)
