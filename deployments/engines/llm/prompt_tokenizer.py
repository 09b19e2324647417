"""Plain prompts → token ids, with the tokenizer's own chat template."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from jinja2 import TemplateError

from api.errors import ContextLengthExceededError, InvalidRequestError
from api.ports.tenancy import RequestContext
from api.ports.text import Conversation, Prompt
from deployments.engines.cancellable_thread import Cancellation
from deployments.engines.llm.length_bound import find_length_bound
from deployments.engines.llm.text_encoder import TextEncoder, find_backend
from deployments.engines.tokenizer_thread import TokenizerThread

SLICE_CHARS = 65_536
"""Characters of one turn in the thread while a long text is counted; takes about 30 ms."""
_COUNTED_ABOVE = 4
"""Characters per token of ordinary text: what has more is counted before it is tokenized."""
_CUT_TOKENS = 128
"""Not counted of each slice: a cut through a word can make more tokens of it, though few."""
_MESSAGE_CHARS = 64
"""What a chat template writes around a message, roughly."""


class PromptTokenizer:
    """One model's tokenizer."""

    def __init__(
        self, tokenizer: Any, context_tokens: int, *, slice_chars: int = SLICE_CHARS
    ) -> None:
        """Use a tokenizer of transformers.

        Args:
            tokenizer: of the model.
            context_tokens: of the model; a prompt must leave room for one token.
            slice_chars: characters of one turn while a long text is counted.
        """
        self._tokenizer = tokenizer
        self._context_tokens = context_tokens
        self._slice_chars = slice_chars
        self._vocabulary_size = len(tokenizer)
        # A copy, because a fast tokenizer must not be used by two threads at once.
        copied = copy.deepcopy(tokenizer)
        backend = find_backend(copied)
        self._thread = TokenizerThread(
            TextEncoder(tokenizer, backend), TextEncoder(copied, backend)
        )
        self._bound = None if backend is None else find_length_bound(backend)

    async def to_ids(self, prompt: Prompt, context: RequestContext) -> list[int]:
        """Tokenize a prompt, with special tokens. A conversation must be plain (`is_plain`).

        Args:
            prompt: what to tokenize.
            context: whose prompt it is: long ones are tokenized in fair turns.

        Raises:
            ContextLengthExceededError: the prompt is far too long; others are not refused here.
            InvalidRequestError: a token id is not in the vocabulary, or the chat template refuses
                the roles.
        """
        if isinstance(prompt, tuple):
            if max(prompt) >= self._vocabulary_size:
                raise InvalidRequestError.value(
                    "prompt", f"this model's token ids end at {self._vocabulary_size - 1}"
                )
            return list(prompt)
        chars = _count_chars(prompt)
        if self._may_be_too_long(chars):
            text = prompt
            if isinstance(prompt, Conversation):
                text = await self._thread.run(
                    chars, lambda encoder, stop: _render(encoder, prompt), context
                )
            await self.check_length(str(text), context)
        return await self._thread.run(
            chars, lambda encoder, stop: _encode(encoder, prompt), context
        )

    async def check_length(self, text: str, context: RequestContext) -> None:
        """Check that a text is not far too long, at a cost that the model's context bounds.

        Raises:
            ContextLengthExceededError: the text has more tokens than the context, for certain.
        """
        if not self._may_be_too_long(len(text)):
            return
        tokens = 0 if self._bound is None else self._bound.min_tokens(text)
        if tokens >= self._context_tokens:
            raise self._too_long(tokens)
        tokens = 0
        for start in range(0, len(text), self._slice_chars):
            part = text[start : start + self._slice_chars]
            ids = await self._thread.run(None, partial(_encode_part, part), context)
            tokens += max(0, len(ids) - _CUT_TOKENS)
            if tokens >= self._context_tokens:
                raise self._too_long(tokens)

    def _may_be_too_long(self, chars: int) -> bool:
        return chars > max(self._context_tokens * _COUNTED_ABOVE, self._slice_chars)

    def _too_long(self, min_tokens: int) -> ContextLengthExceededError:
        return ContextLengthExceededError(
            f"This model's maximum context length is {self._context_tokens} tokens, but the prompt "
            f"has at least {min_tokens}. Please shorten the prompt."
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
    return sum(len(message.content or "") + _MESSAGE_CHARS for message in prompt.messages)


def _encode(encoder: TextEncoder, prompt: str | Conversation) -> list[int]:
    if isinstance(prompt, str):
        return encoder.encode(prompt)
    with _template_errors():
        return encoder.encode_conversation(_to_messages(prompt))


def _encode_part(part: str, encoder: TextEncoder, stop: Cancellation) -> list[int]:
    return encoder.encode_rendered(part)


def _render(encoder: TextEncoder, conversation: Conversation) -> str:
    with _template_errors():
        return encoder.render(_to_messages(conversation))


def _to_messages(conversation: Conversation) -> list[dict[str, Any]]:
    return [
        {"role": message.role, "content": message.content}
        | ({"name": message.name} if message.name else {})
        for message in conversation.messages
    ]


@contextmanager
def _template_errors() -> Iterator[None]:
    """Translate what a chat template raises."""
    try:
        yield
    except TemplateError:
        raise InvalidRequestError.value(
            "messages", "this model's chat template does not take this sequence of roles"
        ) from None
    except ValueError:
        raise InvalidRequestError(
            "This model has no chat template; use /v1/completions.", param="model"
        ) from None
