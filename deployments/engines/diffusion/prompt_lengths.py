"""How long a prompt may be for an image model: pipelines drop what is over, and we do not."""

import copy
from typing import Any

from api.errors import InvalidRequestError

_WITH_TEMPLATES = "ZImage"
"""Pipelines that cut prompts together with what they put around them."""


class PromptReader:
    """Counts prompts as the model's text encoders read them."""

    def __init__(self, pipeline: Any, max_sequence_length: int | None) -> None:
        """Read like the one of the encoders that reads most; the others get what they can take.

        Args:
            pipeline: what draws.
            max_sequence_length: what the pipeline itself cuts prompts to, whatever an encoder says.
        """
        readers = [
            getattr(pipeline, f"tokenizer{number}")
            for number in ("", "_2", "_3")
            if getattr(pipeline, f"text_encoder{number}", None) is not None
            and getattr(pipeline, f"tokenizer{number}", None) is not None
        ]
        longest = max(readers, key=lambda reader: int(reader.model_max_length))
        # A copy, because a fast tokenizer cannot be used by two threads at once.
        self._tokenizer = copy.deepcopy(longest)
        self._has_template = type(pipeline).__name__.startswith(_WITH_TEMPLATES)
        limits = [int(longest.model_max_length), max_sequence_length]
        self._max_tokens = min(limit for limit in limits if limit is not None)

    def count(self, text: str, param: str) -> int:
        """Count the tokens of a prompt.

        Raises:
            InvalidRequestError: the text encoder cannot read all of it.
        """
        if self._has_template:
            text = self._fill_in_template(text)
        count = len(self._tokenizer(text, truncation=False, verbose=False)["input_ids"])
        if count > self._max_tokens:
            raise InvalidRequestError(
                f"Invalid value for '{param}': it has {count} tokens, and this model reads at most "
                f"{self._max_tokens}.",
                param=param,
            )
        return count

    def _fill_in_template(self, prompt: str) -> str:
        """What the text encoder is given (diffusers, ZImagePipeline._encode_prompt)."""
        messages = [{"role": "user", "content": prompt}]
        filled: str = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return filled
