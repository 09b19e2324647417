"""What stands in for vLLM's queue, without vLLM; the engine itself is tested in tests/e2e."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from api.errors import EngineError
from api.ports.stream import Delta
from deployments.engines.llm.vllm_output import VllmOutput


@dataclass
class FakeQueue:
    """vLLM's RequestOutputCollector, as far as it is used."""

    earlier: Any = None
    request_id: str = "internal-1"

    def get_nowait(self) -> Any:
        if isinstance(self.earlier, Exception):
            raise self.earlier
        return self.earlier

    def put(self, output: Any) -> None:
        raise AssertionError("nothing stands in for it")


@dataclass
class Asked:
    """One request, and all that came of it."""

    first_index: int = 0
    earlier: Any = None
    deltas: list[Delta] = field(default_factory=list)
    progress: int = 0

    def __post_init__(self) -> None:
        self.output = VllmOutput(self.first_index, self.deltas.append, self._note)
        self.queue = FakeQueue(self.earlier)

    def _note(self) -> None:
        self.progress += 1

    def begin(self) -> None:
        self.output.stand_in_for(self.queue)  # type: ignore[arg-type]


def step(*choices: Any, finished: bool = False, cached: int | None = None) -> Any:
    """What one step of the engine brings for one request (vLLM's RequestOutput)."""
    return SimpleNamespace(outputs=choices, finished=finished, num_cached_tokens=cached)


def choice(text: str, reason: str | None = None, *, index: int = 0, tokens: int = 1) -> Any:
    return SimpleNamespace(
        index=index, text=text, finish_reason=reason, token_ids=list(range(tokens))
    )


async def test_deltas_go_on_at_once_and_are_counted() -> None:
    asked = Asked()
    asked.begin()

    asked.queue.put(step(choice("a"), cached=7))
    asked.queue.put(step(choice("bc", tokens=2)))
    asked.queue.put(step(choice("", "length"), finished=True))

    assert asked.deltas == [Delta(0, "a"), Delta(0, "bc"), Delta(0, "", "length")]
    assert (asked.output.completion_tokens, asked.output.cached_tokens) == (4, 7)
    assert asked.output.end.done()
    assert asked.progress == 3


async def test_a_token_without_text_is_counted_but_no_delta() -> None:
    asked = Asked()
    asked.begin()

    asked.queue.put(step(choice("")))

    assert asked.deltas == []
    assert asked.output.completion_tokens == 1


async def test_choices_are_numbered_from_the_first_of_their_prompt() -> None:
    asked = Asked(first_index=6)
    asked.begin()

    asked.queue.put(step(choice("x", index=1), choice("y", "stop", index=0)))

    assert asked.deltas == [Delta(7, "x"), Delta(6, "y", "stop")]
    assert not asked.output.end.done()


async def test_what_came_before_it_stood_in_is_not_lost() -> None:
    asked = Asked(earlier=step(choice("early")))

    asked.begin()

    assert asked.deltas == [Delta(0, "early")]
    assert asked.output.id == "internal-1"


async def test_an_error_that_came_before_it_stood_in_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        Asked(earlier=ZeroDivisionError()).begin()


async def test_an_error_of_the_engine_ends_it() -> None:
    asked = Asked()
    asked.begin()

    asked.queue.put(ZeroDivisionError())
    asked.queue.put(step(choice("too late")))

    assert asked.deltas == []
    with pytest.raises(ZeroDivisionError):
        await asked.output.end


@pytest.mark.parametrize("reason", ["abort", "error"])
async def test_a_choice_that_vllm_gave_up_is_an_error(reason: str) -> None:
    asked = Asked()
    asked.begin()

    asked.queue.put(step(choice("half", reason), finished=True))

    with pytest.raises(EngineError):
        await asked.output.end


async def test_a_reason_that_only_vllm_knows_is_a_stop() -> None:
    asked = Asked()
    asked.begin()

    asked.queue.put(step(choice("", "repetition"), finished=True))

    assert asked.deltas == [Delta(0, "", "stop")]


async def test_what_comes_after_a_cancellation_is_ignored() -> None:
    asked = Asked()
    asked.begin()
    waiting = asyncio.ensure_future(asyncio.wait_for(asked.output.end, 5))
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.wait({waiting})
    asked.queue.put(step(choice("", "abort"), finished=True))

    assert asked.deltas == []
