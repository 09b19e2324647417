"""The cause of a failed start, with vLLM's loggers but without vLLM."""

import logging
import multiprocessing
from collections.abc import Iterator

import pytest

from deployments.engines.llm.startup_errors import keep_startup_errors, root_cause_of_failure
from deployments.engines.sources import EngineStartError


@pytest.fixture(autouse=True)
def _restore_handlers() -> Iterator[None]:
    logger = logging.getLogger("vllm")
    before = logger.handlers[:]
    yield
    logger.handlers[:] = before


def fail(*errors: Exception) -> None:
    """Fail as a process of vLLM does: log each error."""
    keep_startup_errors()
    keep_startup_errors()
    for error in errors:
        try:
            raise error
        except Exception:
            logging.getLogger("vllm.v1.engine.core").exception("EngineCore failed to start.")


def start(*errors: Exception) -> None:
    with root_cause_of_failure():
        process = multiprocessing.get_context("spawn").Process(target=fail, args=errors)
        process.start()
        process.join()
        raise RuntimeError("Engine core initialization failed. See root cause above.")


def test_failure_is_the_first_error_that_a_process_logged() -> None:
    with pytest.raises(EngineStartError) as caught:
        start(ValueError("too little\nmemory"), RuntimeError("a worker has failed"))

    assert str(caught.value) == "ValueError: too little memory"


def test_failure_without_a_logged_error_stays_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="See root cause above"):
        start()


def test_error_is_shortened() -> None:
    with pytest.raises(EngineStartError) as caught:
        start(ValueError("x" * 10_000))

    assert len(str(caught.value)) == 500


def test_errors_after_the_start_are_not_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with root_cause_of_failure():
        keep_startup_errors()

    fail(ValueError("later"))

    assert list(tmp_path.iterdir()) == []


def test_records_without_an_error_are_not_kept() -> None:
    def start_and_fail() -> None:
        with root_cause_of_failure():
            keep_startup_errors()
            logging.getLogger("vllm").error("only a message")
            raise KeyError

    with pytest.raises(KeyError):
        start_and_fail()
