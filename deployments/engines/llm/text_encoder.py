"""Texts and conversations → token ids, by the tokenizers library where that gives the same ids.

transformers' wrapper around a fast tokenizer takes longer than the encoding of a short prompt.
"""

from typing import Any

_PROBE = "Hello, world! 1 + 1 = 2\n\tÄpfel 你好 🙂 <s>"
"""What a wrapper would change if it did more than pass texts on."""
_SHORT_CHARS = 16_000
"""Takes about 10 ms. The library encodes one text under the GIL, but a batch without it."""
_PROBE_MESSAGES = [{"role": "user", "content": _PROBE}]


class TextEncoder:
    """Encodes with one tokenizer; not for two threads at once."""

    def __init__(self, tokenizer: Any, backend: Any) -> None:
        """Compare both ways once.

        Args:
            tokenizer: of transformers.
            backend: the same tokenizer of the tokenizers library; None if there is none. Nothing
                else may change it; two encoders may share it.
        """
        self._tokenizer = tokenizer
        self._backend = backend
        self._encodes_texts = backend is not None and self._agrees_on_texts()
        self._encodes_conversations = self._encodes_texts and self._agrees_on_conversations()

    def encode(self, text: str) -> list[int]:
        """Encode a text, with special tokens."""
        if self._encodes_texts:
            return self._encode(text, add_special_tokens=True)
        return list(self._tokenizer.encode(text))

    def encode_conversation(self, messages: list[dict[str, Any]]) -> list[int]:
        """Encode messages by the chat template, with the beginning of the answer.

        Raises:
            TemplateError: the template refuses the messages.
            ValueError: there is no template.
        """
        if self._encodes_conversations:
            return self.encode_rendered(self.render(messages))
        return self._encode_slowly(messages)

    def encode_rendered(self, text: str) -> list[int]:
        """Encode a text of the chat template, which has its special tokens already."""
        if self._encodes_texts:
            return self._encode(text, add_special_tokens=False)
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def render(self, messages: list[dict[str, Any]]) -> str:
        """Write messages as one text by the chat template; raises what encoding them raises."""
        template = self._tokenizer.apply_chat_template
        return str(template(messages, add_generation_prompt=True, tokenize=False))

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if len(text) <= _SHORT_CHARS:
            encoding = self._backend.encode(text, add_special_tokens=add_special_tokens)
        else:
            (encoding,) = self._backend.encode_batch_fast(
                [text], add_special_tokens=add_special_tokens
            )
        ids: list[int] = encoding.ids
        return ids

    def _encode_slowly(self, messages: list[dict[str, Any]]) -> list[int]:
        template = self._tokenizer.apply_chat_template
        ids = template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        return list(ids)

    def _agrees_on_texts(self) -> bool:
        expected = list(self._tokenizer.encode(_PROBE))
        return self._encode(_PROBE, add_special_tokens=True) == expected

    def _agrees_on_conversations(self) -> bool:
        try:
            expected = self._encode_slowly(_PROBE_MESSAGES)
            return self._encode(self.render(_PROBE_MESSAGES), add_special_tokens=False) == expected
        except Exception:  # a template may refuse the probe, and raise anything
            return False


def find_backend(tokenizer: Any) -> Any:
    """Return the tokenizers library's tokenizer in one of transformers; None if it is slow.

    It is changed to neither truncate nor pad, so `tokenizer` must be a copy.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if not hasattr(backend, "no_truncation"):
        return None
    backend.no_truncation()
    backend.no_padding()
    return backend
