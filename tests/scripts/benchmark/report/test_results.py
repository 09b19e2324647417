from typing import Any

import pytest

from scripts.benchmark.report.results import Results, busiest, count_cores, cpu_of, engine_cores, of
from scripts.benchmark.report.targets import to_rows


def figures(concurrency: int = 64, **more: Any) -> dict[str, Any]:
    return {
        "concurrency": concurrency,
        "errors": 0,
        "tokens_per_s": 100.0,
        "ttft_p50_ms": 10.0,
        "gap_p99_ms": 10.0,
        **more,
    }


@pytest.fixture
def results() -> Results:
    results = Results("serving")
    results.add("vllm", 1, figures(tokens_per_s=100.0))
    results.add("triptych", 1, figures(tokens_per_s=110.0))
    results.add("vllm", 2, figures(tokens_per_s=200.0))
    results.add("triptych", 2, figures(tokens_per_s=180.0, errors=2))
    results.add("triptych", 3, figures(tokens_per_s=1000.0))
    return results


def test_ratio_is_of_rounds_that_both_stacks_have(results: Results):
    spread = results.ratio("triptych", 64, of("tokens_per_s"))

    assert spread
    assert (spread.median, spread.low, spread.high) == pytest.approx((1.0, 0.9, 1.1))


def test_errors_of_all_rounds_are_added(results: Results):
    assert results.errors("triptych", 64) == 2


def test_groups_of_processes_are_added():
    measured = {"cpu_us_per_token": {"replica": 40.0, "ingress": 20.0, "engine": 500.0}}

    assert cpu_of("replica", "ingress", "proxy")(measured) == 60.0


def test_engine_is_not_the_busiest_serving_process():
    measured = {"busiest_us_per_token": {"replica": 40.0, "ingress": 20.0, "engine": 500.0}}

    assert busiest(measured) == 40.0


def test_target_row_says_whether_it_is_met(results: Results):
    rows = to_rows(results, "triptych")

    assert rows[0] == "| triptych | tok/s vs vllm, c=64 | 1.00 (0.90–1.10) | ≥ 1.05 | no |"


def test_target_without_measurements_is_left_out(results: Results):
    assert not [row for row in to_rows(results, "triptych") if "c=256" in row or "CPU" in row]


def test_cores_of_the_engine_are_its_time_per_token_times_the_rate():
    figures = {"tokens_per_s": 2000.0, "cpu_us_per_token": {"engine": 650.0, "replica": 50.0}}

    assert engine_cores(figures) == pytest.approx(1.3)


def test_engine_of_another_programs_server_counts_no_cores():
    assert engine_cores({"tokens_per_s": 2000.0}) == 0.0


def test_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3})

    assert count_cores() == 2


def test_rig_with_the_fake_engine_has_the_targets_of_the_serving_rig(results: Results):
    capacity = Results("capacity", results.figures)

    assert to_rows(capacity, "triptych")[0] == to_rows(results, "triptych")[0]


def test_target_beside_a_stack_that_was_not_measured_is_left_out(results: Results):
    assert not [row for row in to_rows(results, "triptych") if "litellm" in row]
