import pytest

from scripts.benchmark.report.report import count_cores, engine_cores


def test_cores_of_the_engine_are_its_time_per_token_times_the_rate():
    figures = {"tokens_per_s": 2000.0, "cpu_us_per_token": {"engine": 650.0, "replica": 50.0}}

    assert engine_cores(figures) == pytest.approx(1.3)


def test_engine_of_another_programs_server_counts_no_cores():
    assert engine_cores({"tokens_per_s": 2000.0}) == 0.0


def test_cores_are_those_this_process_may_use():
    assert count_cores() >= 1
