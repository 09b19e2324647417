"""vLLM's own EngineCore runs the fake classes, as it does behind every front-end."""

from collections.abc import Iterator
from typing import Any

import pytest

from scripts.benchmark.stacks.rigs import FAKE_ENGINE_PATH, fake_engine
from tests.helpers.tiny_models import BASE


@pytest.fixture(scope="module")
def core() -> Iterator[Any]:
    """An EngineCore in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FAKE_ENGINE_PATH)
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.core import EngineCore
        from vllm.v1.executor.abstract import Executor

        args = AsyncEngineArgs(model=str(BASE), dtype="float32", **fake_engine(step_ms=1))
        config = args.create_engine_config()
        core = EngineCore(config, Executor.get_class(config), log_stats=False)
        yield core
        core.shutdown()


def add(core: Any, request_id: str, max_tokens: int, client_index: int = 0) -> None:
    from vllm import SamplingParams
    from vllm.v1.request import Request

    sampling = SamplingParams(max_tokens=max_tokens)
    core.add_request(Request(request_id, [1, 2, 3], sampling, None, client_index))


def step(core: Any, client_index: int = 0) -> dict[str, tuple[int, bool]]:
    """Tokens of one step by request, and whether it has finished."""
    outputs, is_executed = core.step()
    assert is_executed
    return {
        each.request_id: (len(each.new_token_ids), each.finished)
        for each in outputs[client_index].outputs
    }


def test_every_running_request_gets_one_token_each_step(core: Any) -> None:
    add(core, "a", 2)
    add(core, "b", 1)

    assert step(core) == {"a": (1, False), "b": (1, True)}
    assert step(core) == {"a": (1, True)}
    assert not core.scheduler.has_requests()


def test_outputs_go_to_the_client_that_asked(core: Any) -> None:
    add(core, "a", 1, client_index=0)
    add(core, "b", 1, client_index=1)

    outputs, _ = core.step()

    assert {client: each.outputs[0].request_id for client, each in outputs.items()} == {
        0: "a",
        1: "b",
    }


def test_cancelled_request_gets_no_more_tokens(core: Any) -> None:
    add(core, "a", 100)
    add(core, "b", 1)

    core.abort_requests(["a", "unknown"])

    assert step(core) == {"b": (1, True)}
    assert not core.scheduler.has_requests()


def test_tokens_are_plain_text(core: Any) -> None:
    from transformers import AutoTokenizer

    add(core, "a", 15)
    tokens = [core.step()[0][0].outputs[0].new_token_ids[0] for _ in range(15)]

    text = AutoTokenizer.from_pretrained(BASE).decode(tokens)

    assert text.startswith(" the sea was calm")
    assert text.isprintable()


def test_first_token_tells_the_length_of_the_prompt(core: Any) -> None:
    add(core, "a", 2)

    prefills = [core.step()[0][0].outputs[0].prefill_stats for _ in range(2)]

    assert prefills[0].num_prompt_tokens == 3
    assert prefills[1] is None


def test_busy_steps_end_at_equal_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.benchmark.fake_engine import bench_fake_engine

    clock, now, slept = bench_fake_engine.Clock(0.02), [100.0], []
    monkeypatch.setattr(bench_fake_engine.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(bench_fake_engine.time, "sleep", slept.append)

    for at_s in (100.0, 100.025, 103.0):  # from rest; 5 ms of work after a step; from rest
        now[0] = at_s
        clock.sleep()

    assert slept == pytest.approx([0.02, 0.015, 0.02])
