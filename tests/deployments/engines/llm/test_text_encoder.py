"""Encoding by the tokenizers library beside transformers' wrapper, with small real tokenizers."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast  # noqa: TID253

from deployments.engines.llm.text_encoder import TextEncoder, find_backend
from tests.helpers.tiny_tokenizers import make_byte_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'clown' %}{{ raise_exception('no clowns') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "
)
MESSAGES = [{"role": "user", "content": "Hi there"}]


def make_tokenizer(cls: type = PreTrainedTokenizerFast) -> Any:
    """A tokenizer of bytes with a chat template."""
    tokenizer = make_byte_tokenizer(cls)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


class Shouting(PreTrainedTokenizerFast):
    """Does more than to pass texts on."""

    def _encode_plus(self, text: str, *args: Any, **kwargs: Any) -> Any:
        return super()._encode_plus(text.upper(), *args, **kwargs)


def to_encoder(tokenizer: Any) -> TextEncoder:
    return TextEncoder(tokenizer, find_backend(copy.deepcopy(tokenizer)))


def expected_conversation(tokenizer: Any) -> list[int]:
    ids = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return list(ids)


@pytest.mark.parametrize(
    "text", ["", "Hi there", "<s>Äpfel 你好\n", "word " * 3000, "word " * 4000]
)
def test_text_gets_the_ids_of_the_wrapper(text: str) -> None:
    tokenizer = make_tokenizer()
    encoder = to_encoder(tokenizer)

    assert encoder.encode(text) == list(tokenizer.encode(text))
    assert encoder._encodes_texts


def test_conversation_gets_the_ids_of_the_wrapper() -> None:
    tokenizer = make_tokenizer()
    encoder = to_encoder(tokenizer)

    assert encoder.encode_conversation(MESSAGES) == expected_conversation(tokenizer)
    assert encoder._encodes_conversations


def test_truncation_and_padding_of_the_file_have_no_effect() -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    encoder = to_encoder(tokenizer)

    assert len(encoder.encode("Hi")) == 3
    assert len(encoder.encode("Hi there")) == 9


def test_tokenizer_that_changes_texts_is_used_itself() -> None:
    tokenizer = make_tokenizer(Shouting)
    encoder = to_encoder(tokenizer)

    assert encoder.encode("Hi") == list(make_tokenizer().encode("HI"))
    assert encoder.encode_conversation(MESSAGES) == expected_conversation(tokenizer)


def test_tokenizer_without_a_backend_is_used_itself() -> None:
    class Slow:
        def encode(self, text: str) -> list[int]:
            return [len(text)]

    slow = Slow()

    assert find_backend(slow) is None
    assert TextEncoder(slow, None).encode("abc") == [3]


def test_template_that_refuses_the_probe_is_used_with_the_wrapper() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('system first') }}"
    encoder = to_encoder(tokenizer)

    assert not encoder._encodes_conversations
    with pytest.raises(TemplateError, match="system first"):
        encoder.encode_conversation(MESSAGES)


def test_refusal_of_the_template_is_raised() -> None:
    with pytest.raises(TemplateError, match="no clowns"):
        to_encoder(make_tokenizer()).encode_conversation([{"role": "clown", "content": ""}])


def test_missing_template_is_a_value_error() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None

    with pytest.raises(ValueError, match="chat_template"):
        to_encoder(tokenizer).encode_conversation(MESSAGES)


def test_long_text_is_encoded_without_the_interpreter_lock() -> None:
    class Backend:
        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> Any:
            return [SimpleNamespace(ids=[len(text) for text in texts])]

        def encode(self, text: str, add_special_tokens: bool) -> Any:
            return SimpleNamespace(ids=[7])

    class Wrapper:
        def encode(self, text: str) -> list[int]:
            return [7]

    encoder = TextEncoder(Wrapper(), Backend())

    assert encoder.encode("x" * 100) == [7]
    assert encoder.encode("x" * 100_000) == [100_000]
