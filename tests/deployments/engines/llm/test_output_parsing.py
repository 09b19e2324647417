"""Output beside text, with a small parser in place of vLLM's."""

from types import SimpleNamespace
from typing import Any

import pytest

from api.ports.stream import Extra, TokenLogprob, ToolCallDelta
from api.ports.text import Sampling
from deployments.engines.llm.output_parsing import ChoiceParser, OutputParser
from deployments.engines.llm.token_bytes import TokenBytes
from tests.helpers.tiny_tokenizers import ByteLevelTokenizer

TOKENS = TokenBytes(ByteLevelTokenizer())


def choice(text: str, *ids: int, index: int = 0, logprobs: Any = None) -> Any:
    return SimpleNamespace(index=index, text=text, token_ids=list(ids), logprobs=logprobs)


def logprob_of(logprob: float, rank: int, text: str | None = None) -> Any:
    return SimpleNamespace(logprob=logprob, rank=rank, decoded_token=text)


def output(prompt_logprobs: Any = None) -> Any:
    return SimpleNamespace(prompt_logprobs=prompt_logprobs)


def test_logprobs_include_the_likeliest_tokens_by_rank() -> None:
    entry = {1: logprob_of(-2.0, 3, " a"), 2: logprob_of(-0.5, 1), 3: logprob_of(-1.0, 2)}
    parser = OutputParser(Sampling(logprobs=2), TOKENS, [1], "", None)

    _, _, extra = parser.parse(output(), choice(" a", 1, logprobs=[entry]), None)

    assert extra is not None
    (token,) = extra.logprobs
    assert (token.text, token.logprob, token.data) == (" a", -2.0, b" a")
    assert [(other.logprob, other.data) for other in token.top] == [
        (-0.5, b"\xc3"),
        (-1.0, b"\xa9"),
    ]


def test_prompt_precedes_the_first_delta_of_each_choice() -> None:
    parser = OutputParser(Sampling(echo=True, prompt_logprobs=0), TOKENS, [1, 9], " a<end>", None)
    prompt = [None, {9: logprob_of(-1.0, 1, "<end>")}]
    deltas = [
        parser.parse(output(prompt), choice("x", 1), None),
        parser.parse(output(), choice("y", 1), "stop"),
        parser.parse(output(), choice("z", 1, index=1), "stop"),
    ]

    expected = Extra(
        prompt_logprobs=(
            TokenLogprob(" a", None, b" a"),
            TokenLogprob("<end>", -1.0, b"<end>"),
        )
    )
    assert deltas == [
        (" a<end>x", None, expected),
        ("y", "stop", None),
        (" a<end>z", "stop", expected),
    ]


def test_text_is_dropped_if_max_tokens_is_0() -> None:
    parser = OutputParser(Sampling(echo=True, max_tokens=0), TOKENS, [1], " a", None)

    assert parser.parse(output(), choice("junk", 1), "stop") == (" a", "length", None)


class Parser:
    """Text in capitals is reasoning, digits are tool calls."""

    def set_prompt_token_ids(self, ids: Any) -> None:
        """Not used."""

    def parse_delta(self, text: str, ids: Any, request: Any, prompt: Any, *, finished: bool) -> Any:
        if not text:
            return None
        calls = [SimpleNamespace(index=0, id=None, function=None)] if text.isdigit() else []
        is_reasoning = text.isupper()
        return SimpleNamespace(
            content=None if is_reasoning or calls else text,
            reasoning=text if is_reasoning else None,
            tool_calls=calls,
        )

    def parse(self, text: str, request: Any, auto: bool, ids: Any) -> Any:
        return "T", None, [SimpleNamespace(id="call_1", name="f", arguments="{}")]

    reasoning_parser = None

    def count_reasoning_tokens(self, ids: Any) -> int:
        return len(ids)


def choice_parser(*, is_streamed: bool, tool_choice: Any = "auto") -> ChoiceParser:
    request: Any = SimpleNamespace(tool_choice=tool_choice)
    parser: Any = Parser()
    return ChoiceParser(parser, request, is_streamed=is_streamed)


def test_streamed_reasoning_and_calls_are_separated_from_text() -> None:
    parser = OutputParser(Sampling(), TOKENS, [1], "", lambda: choice_parser(is_streamed=True))

    deltas = [parser.parse(output(), choice(text, 1), None) for text in ("HM", "so", "1", "")]
    end = parser.parse(output(), choice("", 1), "stop")

    assert deltas == [
        ("", None, Extra(reasoning="HM")),
        ("so", None, None),
        ("", None, Extra(tool_calls=(ToolCallDelta(0, None, None, ""),))),
        ("", None, None),
    ]
    assert end == ("", "tool_calls", None)
    assert parser.reasoning_tokens == 5


def test_whole_output_is_parsed_at_once() -> None:
    parser = choice_parser(is_streamed=False)

    assert parser.parse(choice("x", 1), [1], "stop") == (
        "",
        "T",
        (ToolCallDelta(0, "call_1", "f", "{}"),),
        "tool_calls",
    )


def test_named_call_ends_with_stop() -> None:
    named = choice_parser(is_streamed=False, tool_choice=SimpleNamespace(function="f"))

    assert named.parse(choice("x", 1), [1], "stop")[-1] == "stop"
    assert named.parse(choice("x", 1), [1], "length")[-1] == "length"


class ReasoningParser:
    """Token 3 ends the reasoning."""

    def is_reasoning_end(self, ids: Any) -> bool:
        return 3 in ids

    def extract_content_ids(self, ids: Any) -> Any:
        return ids[ids.index(3) + 1 :]


class ForgetfulParser(Parser):
    """Returns 0, as vLLM's parsers do if the reasoning began in the prompt."""

    reasoning_parser: Any = ReasoningParser()

    def count_reasoning_tokens(self, ids: Any) -> int:
        return 0


@pytest.mark.parametrize(("ids", "expected"), [([1, 2, 3, 1], 3), ([1, 2], 2)])
def test_reasoning_that_began_in_the_prompt_is_counted(ids: list[int], expected: int) -> None:
    request: Any = SimpleNamespace(tool_choice="none")
    parser: Any = ForgetfulParser()
    forgetful = ChoiceParser(parser, request, is_streamed=True)
    forgetful.parse(choice("HM", *ids), [1], "stop")

    assert forgetful.reasoning_tokens == expected
