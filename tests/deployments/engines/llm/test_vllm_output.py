"""The replacement of vLLM's queue, without vLLM; the engine itself is tested in tests/e2e."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from api.errors import EngineError
from api.ports.stream import TextDelta
from deployments.engines.llm.vllm_output import VllmOutput


@dataclass
class FakeQueue:
    """The methods of vLLM's RequestOutputCollector that are used."""

    earlier: Any = None
    request_id: str = "internal-1"

    def get_nowait(self) -> Any:
        if isinstance(self.earlier, Exception):
            raise self.earlier
        return self.earlier

    def put(self, output: Any) -> None:
        raise AssertionError("the queue was not replaced")


@dataclass
class FakeRequest:
    """One request, and the deltas that it emitted."""

    first_index: int = 0
    earlier: Any = None
    deltas: list[TextDelta] = field(default_factory=list)
    progress: int = 0

    def __post_init__(self) -> None:
        self.output = VllmOutput(self.first_index, self.deltas.append, self._record)
        self.queue = FakeQueue(self.earlier)

    def _record(self) -> None:
        self.progress += 1

    def begin(self) -> None:
        self.output.replace_queue(self.queue)  # type: ignore[arg-type]


def step(*choices: Any, finished: bool = False, cached: int | None = None) -> Any:
    """One step's output for one request (vLLM's RequestOutput)."""
    return SimpleNamespace(outputs=choices, finished=finished, num_cached_tokens=cached)


def choice(text: str, reason: str | None = None, *, index: int = 0, tokens: int = 1) -> Any:
    return SimpleNamespace(
        index=index, text=text, finish_reason=reason, token_ids=list(range(tokens))
    )


async def test_deltas_are_emitted_at_once_and_counted() -> None:
    request = FakeRequest()
    request.begin()

    request.queue.put(step(choice("a"), cached=7))
    request.queue.put(step(choice("bc", tokens=2)))
    request.queue.put(step(choice("", "length"), finished=True))

    assert request.deltas == [TextDelta(0, "a"), TextDelta(0, "bc"), TextDelta(0, "", "length")]
    assert (request.output.completion_tokens, request.output.cached_tokens) == (4, 7)
    assert request.output.end.done()
    assert request.progress == 3


async def test_token_without_text_is_counted_but_not_emitted() -> None:
    request = FakeRequest()
    request.begin()

    request.queue.put(step(choice("")))

    assert request.deltas == []
    assert request.output.completion_tokens == 1


async def test_choices_are_numbered_from_the_first_index() -> None:
    request = FakeRequest(first_index=6)
    request.begin()

    request.queue.put(step(choice("x", index=1), choice("y", "stop", index=0)))

    assert request.deltas == [TextDelta(7, "x"), TextDelta(6, "y", "stop")]
    assert not request.output.end.done()


async def test_output_that_is_in_the_queue_already_is_emitted() -> None:
    request = FakeRequest(earlier=step(choice("early")))

    request.begin()

    assert request.deltas == [TextDelta(0, "early")]
    assert request.output.id == "internal-1"


async def test_error_that_is_in_the_queue_already_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        FakeRequest(earlier=ZeroDivisionError()).begin()


async def test_error_of_the_engine_ends_the_request() -> None:
    request = FakeRequest()
    request.begin()

    request.queue.put(ZeroDivisionError())
    request.queue.put(step(choice("too late")))

    assert request.deltas == []
    with pytest.raises(ZeroDivisionError):
        await request.output.end


@pytest.mark.parametrize("reason", ["abort", "error"])
async def test_aborted_choice_is_an_engine_error(reason: str) -> None:
    request = FakeRequest()
    request.begin()

    request.queue.put(step(choice("half", reason), finished=True))

    with pytest.raises(EngineError):
        await request.output.end


async def test_finish_reason_unknown_to_openai_becomes_stop() -> None:
    request = FakeRequest()
    request.begin()

    request.queue.put(step(choice("", "repetition"), finished=True))

    assert request.deltas == [TextDelta(0, "", "stop")]


async def test_output_after_a_cancellation_is_ignored() -> None:
    request = FakeRequest()
    request.begin()
    waiting = asyncio.ensure_future(asyncio.wait_for(request.output.end, 5))
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.wait({waiting})
    request.queue.put(step(choice("", "abort"), finished=True))

    assert request.deltas == []
