"""Prompt lengths of image models: pipelines truncate long prompts silently, and we refuse them."""

import copy
from typing import Any

from api.errors import InvalidRequestError

_WITH_CHAT_TEMPLATE = "ZImage"
"""Pipelines that truncate prompts together with the template around them."""


class PromptTokenCounter:
    """Counts the tokens of prompts as the model's text encoders do."""

    def __init__(self, pipeline: Any, max_sequence_length: int | None) -> None:
        """Use the tokenizer with the highest limit; shorter encoders get a truncated prompt.

        Args:
            pipeline: has the tokenizers.
            max_sequence_length: where the pipeline itself truncates; None if it does not.
        """
        tokenizers = [
            getattr(pipeline, f"tokenizer{number}")
            for number in ("", "_2", "_3")
            if getattr(pipeline, f"text_encoder{number}", None) is not None
            and getattr(pipeline, f"tokenizer{number}", None) is not None
        ]
        longest = max(tokenizers, key=lambda tokenizer: int(tokenizer.model_max_length))
        # A copy, because two threads cannot use one fast tokenizer.
        self._tokenizer = copy.deepcopy(longest)
        self._has_template = type(pipeline).__name__.startswith(_WITH_CHAT_TEMPLATE)
        limits = [int(longest.model_max_length), max_sequence_length]
        self._max_tokens = min(limit for limit in limits if limit is not None)

    def count(self, text: str, param: str) -> int:
        """Count the tokens of a prompt.

        Args:
            text: the prompt.
            param: name of the request's parameter, for the error.

        Raises:
            InvalidRequestError: the prompt is too long for every text encoder.
        """
        if self._has_template:
            text = self._apply_template(text)
        count = len(self._tokenizer(text, truncation=False, verbose=False)["input_ids"])
        if count > self._max_tokens:
            raise InvalidRequestError.value(
                param, f"it has {count} tokens, and this model reads at most {self._max_tokens}"
            )
        return count

    def _apply_template(self, prompt: str) -> str:
        """Build the encoder's input. Source: diffusers, `ZImagePipeline._encode_prompt`."""
        messages = [{"role": "user", "content": prompt}]
        text: str = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return text
