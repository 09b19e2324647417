"""Prompts to token ids, with a tokenizer of words; real ones are tested in tests/e2e."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from api.errors import ContextLengthExceededError, InvalidRequestError
from api.ports.tenancy import RequestContext
from api.ports.text import Conversation, ImageInput, Message, Tool, ToolCall, Tools
from deployments.engines.llm.prompt_tokenizer import PromptTokenizer, is_plain
from tests.helpers.tiny_tokenizers import make_byte_tokenizer

USER = Message("user", "hello")
ANYONE = RequestContext()
SLICE_CHARS = 1000


class WordTokenizer:
    """A token is a word, and its id the word's length; the template puts the role first."""

    template_error: Exception | None = None

    def __len__(self) -> int:
        return 100

    encoded_chars = 0

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        type(self).encoded_chars += len(text)
        return [len(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join("x" * each for each in ids)

    def apply_chat_template(
        self, messages: list[dict[str, Any]], *, tokenize: bool, **options: bool
    ) -> list[int] | str:
        if self.template_error is not None:
            raise self.template_error
        text = " ".join(f"{each['role']} {each['content']}" for each in messages)
        return self.encode(text) if tokenize else text


@pytest.fixture
def words() -> WordTokenizer:
    return WordTokenizer()


@pytest.fixture
def tokenizer(words: WordTokenizer) -> Iterator[PromptTokenizer]:
    tokenizer = PromptTokenizer(words, context_tokens=10_000)
    yield tokenizer
    tokenizer.shut_down()


async def test_text_is_tokenized(tokenizer: PromptTokenizer) -> None:
    assert await tokenizer.to_ids("a bc", ANYONE) == [1, 2]


async def test_long_text_is_tokenized_in_full(tokenizer: PromptTokenizer) -> None:
    assert await tokenizer.to_ids("a " * 5000, ANYONE) == [1] * 5000


async def test_conversation_is_rendered_with_the_chat_template(tokenizer: PromptTokenizer) -> None:
    assert await tokenizer.to_ids(Conversation((USER,)), ANYONE) == [4, 5]


async def test_token_ids_are_returned_as_they_are(tokenizer: PromptTokenizer) -> None:
    assert await tokenizer.to_ids((7, 99), ANYONE) == [7, 99]


async def test_token_id_outside_the_vocabulary_is_refused(tokenizer: PromptTokenizer) -> None:
    with pytest.raises(InvalidRequestError, match="end at 99") as caught:
        await tokenizer.to_ids((7, 100), ANYONE)

    assert caught.value.param == "prompt"


async def test_roles_that_the_template_rejects_are_refused(
    tokenizer: PromptTokenizer, words: WordTokenizer
) -> None:
    from jinja2 import TemplateError

    words.template_error = TemplateError("roles must alternate")

    with pytest.raises(InvalidRequestError) as caught:
        await tokenizer.to_ids(Conversation((USER,)), ANYONE)

    assert caught.value.param == "messages"


async def test_chat_with_a_model_without_template_is_refused(
    tokenizer: PromptTokenizer, words: WordTokenizer
) -> None:
    words.template_error = ValueError("no chat template")

    with pytest.raises(InvalidRequestError, match="/v1/completions") as caught:
        await tokenizer.to_ids(Conversation((USER,)), ANYONE)

    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("prompt", "text"), [("a b", "a b"), ((1, 2), "x xx"), (Conversation((USER,)), "")]
)
def test_prompt_as_text(tokenizer: PromptTokenizer, prompt: Any, text: str) -> None:
    assert tokenizer.to_text(prompt) == text


def test_conversation_of_texts_is_plain() -> None:
    assert is_plain(Conversation((Message("system", "be brief"), USER)))


@pytest.mark.parametrize(
    "conversation",
    [
        Conversation((USER,), tools=Tools((Tool("f"),))),
        Conversation((USER,), reasoning_effort="low"),
        Conversation((USER,), template_options={"enable_thinking": True}),
        Conversation((Message("user", ("What is this?", ImageInput(b""))),)),
        Conversation((Message("assistant", None, tool_calls=(ToolCall("1", "f", "{}"),)),)),
        Conversation((Message("tool", "4", tool_call_id="1"),)),
        Conversation((Message("assistant", "4", reasoning="2 + 2"),)),
    ],
    ids=["tools", "effort", "options", "image", "calls", "result", "reasoning"],
)
def test_conversation_with_more_than_text_is_not_plain(conversation: Conversation) -> None:
    assert not is_plain(conversation)


@pytest.fixture
def small() -> Iterator[PromptTokenizer]:
    """Counts texts of more than 1,000 characters, in a context of 20 tokens."""
    tokenizer = PromptTokenizer(WordTokenizer(), context_tokens=20, slice_chars=SLICE_CHARS)
    yield tokenizer
    tokenizer.shut_down()


LONG = "a " * 400_000


@pytest.mark.parametrize(
    "prompt", [LONG, Conversation((Message("user", LONG),))], ids=["text", "conversation"]
)
async def test_prompt_that_is_far_too_long_is_refused_after_a_part_of_it(
    small: PromptTokenizer, prompt: Any
) -> None:
    WordTokenizer.encoded_chars = 0

    with pytest.raises(ContextLengthExceededError, match=r"has at least 37[12]") as caught:
        await small.to_ids(prompt, ANYONE)

    assert "20 tokens" in caught.value.message
    assert WordTokenizer.encoded_chars <= SLICE_CHARS


async def test_long_text_of_few_tokens_is_tokenized(small: PromptTokenizer) -> None:
    assert await small.to_ids("a" * 5000 + " b", ANYONE) == [5000, 1]


async def test_words_that_the_slices_cut_do_not_refuse_a_text_that_fits() -> None:
    tokenizer = PromptTokenizer(WordTokenizer(), context_tokens=20, slice_chars=10)
    text = "abcdefghijkl " * 15  # 20 slices with one or two words each

    assert await tokenizer.to_ids(text, ANYONE) == [12] * 15
    tokenizer.shut_down()


async def test_client_that_leaves_stops_the_count(small: PromptTokenizer) -> None:
    WordTokenizer.encoded_chars = 0
    running = asyncio.create_task(small.check_length("a" * 1_000_000, ANYONE))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})

    assert WordTokenizer.encoded_chars <= 2 * SLICE_CHARS


async def test_text_longer_than_the_longest_tokens_of_the_context_is_not_tokenized() -> None:
    spoken = make_byte_tokenizer()
    tokenizer = PromptTokenizer(spoken, context_tokens=20, slice_chars=SLICE_CHARS)
    text = "x" * 2000  # the longest token has three characters

    with pytest.raises(ContextLengthExceededError, match="at least 667"):
        await tokenizer.check_length(text, ANYONE)

    tokenizer.shut_down()
