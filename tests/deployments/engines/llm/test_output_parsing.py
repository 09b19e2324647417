"""What is found beside text, with a parser of a few lines in place of vLLM's."""

from types import SimpleNamespace
from typing import Any

import pytest

from api.ports.stream import Extra, TokenLogprob, ToolCallDelta
from api.ports.text import Sampling
from deployments.engines.llm.output_parsing import ChoiceReader, PromptReading
from deployments.engines.llm.token_bytes import TokenTexts

TOKENS = {1: "Ġa", 2: "Ã", 3: "©", 9: "<end>"}


class Tokenizer:
    """Token 1 is " a", 2 the first half of an é and 3 the second, 9 is special."""

    all_special_ids = (9,)

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return [TOKENS[each] for each in ids] if isinstance(ids, list) else TOKENS.get(ids)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [1]


TEXTS = TokenTexts(Tokenizer())


def choice(text: str, *ids: int, index: int = 0, logprobs: Any = None) -> Any:
    return SimpleNamespace(index=index, text=text, token_ids=list(ids), logprobs=logprobs)


def known(logprob: float, rank: int, text: str | None = None) -> Any:
    return SimpleNamespace(logprob=logprob, rank=rank, decoded_token=text)


def output(prompt_logprobs: Any = None) -> Any:
    return SimpleNamespace(prompt_logprobs=prompt_logprobs)


def test_bytes_are_those_of_the_token_however_little_it_is_alone() -> None:
    assert [TEXTS.to_bytes(token) for token in (1, 2, 3, 9, 77)] == [
        b" a",
        b"\xc3",
        b"\xa9",
        b"<end>",
        b"",
    ]


def test_logprobs_come_with_the_likeliest_by_rank() -> None:
    entry = {1: known(-2.0, 3, " a"), 2: known(-0.5, 1), 3: known(-1.0, 2)}
    reading = PromptReading(Sampling(logprobs=2), TEXTS, [1], "", None)

    _, _, extra = reading.read(output(), choice(" a", 1, logprobs=[entry]), None)

    assert extra is not None
    (token,) = extra.logprobs
    assert (token.text, token.logprob, token.data) == (" a", -2.0, b" a")
    assert [(other.logprob, other.data) for other in token.top] == [
        (-0.5, b"\xc3"),
        (-1.0, b"\xa9"),
    ]


def test_the_prompt_comes_once_with_the_first_piece_of_each_choice() -> None:
    reading = PromptReading(Sampling(echo=True, prompt_logprobs=0), TEXTS, [1, 9], " a<end>", None)
    prompt = [None, {9: known(-1.0, 1, "<end>")}]
    pieces = [
        reading.read(output(prompt), choice("x", 1), None),
        reading.read(output(), choice("y", 1), "stop"),
        reading.read(output(), choice("z", 1, index=1), "stop"),
    ]

    expected = Extra(
        prompt_logprobs=(
            TokenLogprob(" a", None, b" a"),
            TokenLogprob("<end>", -1.0, b"<end>"),
        )
    )
    assert pieces == [
        (" a<end>x", None, expected),
        ("y", "stop", None),
        (" a<end>z", "stop", expected),
    ]


def test_what_was_written_only_because_something_must_be_is_left_out() -> None:
    reading = PromptReading(Sampling(echo=True, max_tokens=0), TEXTS, [1], " a", None)

    assert reading.read(output(), choice("junk", 1), "stop") == (" a", "length", None)


class Parser:
    """Text in capitals is thought, digits call tools, `!` breaks it."""

    def set_prompt_token_ids(self, ids: Any) -> None:
        """It needs none."""

    def parse_delta(self, text: str, ids: Any, request: Any, prompt: Any, *, finished: bool) -> Any:
        if not text:
            return None
        calls = [SimpleNamespace(index=0, id=None, function=None)] if text.isdigit() else []
        is_thought = text.isupper()
        return SimpleNamespace(
            content=None if is_thought or calls else text,
            reasoning=text if is_thought else None,
            tool_calls=calls,
        )

    def parse(self, text: str, request: Any, auto: bool, ids: Any) -> Any:
        return "T", None, [SimpleNamespace(id="call_1", name="f", arguments="{}")]

    reasoning_parser = None

    def count_reasoning_tokens(self, ids: Any) -> int:
        return len(ids)


def reader(*, is_streamed: bool, tool_choice: Any = "auto") -> ChoiceReader:
    request: Any = SimpleNamespace(tool_choice=tool_choice)
    parser: Any = Parser()
    return ChoiceReader(parser, request, is_streamed=is_streamed)


def test_thoughts_and_calls_are_told_from_text() -> None:
    reading = PromptReading(Sampling(), TEXTS, [1], "", lambda: reader(is_streamed=True))

    pieces = [reading.read(output(), choice(text, 1), None) for text in ("HM", "so", "1", "")]
    end = reading.read(output(), choice("", 1), "stop")

    assert pieces == [
        ("", None, Extra(reasoning="HM")),
        ("so", None, None),
        ("", None, Extra(tool_calls=(ToolCallDelta(0, None, None, ""),))),
        ("", None, None),
    ]
    assert end == ("", "tool_calls", None)
    assert reading.reasoning_tokens == 5


def test_a_whole_answer_is_read_at_once() -> None:
    whole = reader(is_streamed=False)

    assert whole.read(choice("x", 1), [1], "stop") == (
        "",
        "T",
        (ToolCallDelta(0, "call_1", "f", "{}"),),
        "tool_calls",
    )


def test_a_call_that_was_named_ends_with_stop() -> None:
    named = reader(is_streamed=False, tool_choice=SimpleNamespace(function="f"))

    assert named.read(choice("x", 1), [1], "stop")[-1] == "stop"
    assert named.read(choice("x", 1), [1], "length")[-1] == "length"


class Thoughts:
    """Token 3 ends them."""

    def is_reasoning_end(self, ids: Any) -> bool:
        return 3 in ids

    def extract_content_ids(self, ids: Any) -> Any:
        return ids[ids.index(3) + 1 :]


class ForgetfulParser(Parser):
    """Counts nothing, as vLLM's do when the thoughts began in the prompt."""

    reasoning_parser: Any = Thoughts()

    def count_reasoning_tokens(self, ids: Any) -> int:
        return 0


@pytest.mark.parametrize(("ids", "expected"), [([1, 2, 3, 1], 3), ([1, 2], 2)])
def test_thoughts_that_began_in_the_prompt_are_counted_too(ids: list[int], expected: int) -> None:
    request: Any = SimpleNamespace(tool_choice="none")
    parser: Any = ForgetfulParser()
    forgetful = ChoiceReader(parser, request, is_streamed=True)
    forgetful.read(choice("HM", *ids), [1], "stop")

    assert forgetful.reasoning_tokens == expected
