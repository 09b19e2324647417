import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.config.base import FAKE_SOURCE, ModelArgs
from deployments.engines.sources import EngineStartError, SourceError
from deployments.models.engine_loading import load_engine


@pytest.fixture
def log(
    restored_logs: None, caplog: pytest.LogCaptureFixture
) -> Iterator[pytest.LogCaptureFixture]:
    """Capture the module's log, although `load_engine` configures the logs of a replica."""
    logger = logging.getLogger("deployments.models.engine_loading")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.usefixtures("log")
def test_engine_is_built_from_the_folder(tmp_path: Path) -> None:
    engine = load_engine(ModelArgs(id="m", source=str(tmp_path)), lambda folder: ("engine", folder))

    assert engine == ("engine", str(tmp_path))


@pytest.mark.usefixtures("log")
def test_fake_engine_is_built_from_none() -> None:
    engine = load_engine(ModelArgs(id="m", source=FAKE_SOURCE), lambda folder: ("engine", folder))

    assert engine == ("engine", None)


def test_loading_is_logged(log: pytest.LogCaptureFixture) -> None:
    load_engine(ModelArgs(id="m", source=FAKE_SOURCE), lambda folder: "engine")

    assert [record.getMessage() for record in log.records] == [
        "model 'm': loading from 'fake:'",
        "model 'm': loaded",
    ]


def test_missing_source_is_logged_in_one_line(log: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SourceError) as caught:
        load_engine(ModelArgs(id="m", source="./gone"), lambda folder: "engine")

    assert [record.getMessage() for record in log.records] == [str(caught.value)]
    assert str(caught.value) == (
        "model 'm': source './gone' cannot be loaded: there is no such folder"
    )


@pytest.mark.usefixtures("log")
def test_engine_of_a_folder_with_code_is_not_built_unless_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "modeling.py").touch()
    built = []

    with pytest.raises(SourceError, match=r"'modeling.py' is Python code"):
        load_engine(ModelArgs(id="m", source=str(tmp_path)), built.append)
    assert built == []

    args = ModelArgs(id="m", source=str(tmp_path), trust=frozenset({"code"}))
    load_engine(args, built.append)
    assert built == [str(tmp_path)]


@pytest.mark.usefixtures("log")
def test_reason_of_an_engine_that_cannot_start_is_its_message(tmp_path: Path) -> None:
    def build(folder: str | None) -> str:
        raise EngineStartError("ValueError: too little memory")

    with pytest.raises(SourceError) as caught:
        load_engine(ModelArgs(id="m", source=str(tmp_path)), build)

    assert caught.value.reason == "ValueError: too little memory"


def test_error_of_the_engine_is_a_source_error(
    log: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def build(folder: str | None) -> str:
        raise ValueError("no tokenizer\nlong story")

    with pytest.raises(SourceError) as caught:
        load_engine(ModelArgs(id="m", source=str(tmp_path)), build)

    assert str(caught.value) == (
        f"model 'm': source '{tmp_path}' cannot be loaded: ValueError: no tokenizer"
    )
    assert str(caught.value) in [record.getMessage() for record in log.records]
    assert "long story" in log.text


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_is_not_a_source_error(error: type[BaseException]) -> None:
    def build(folder: str | None) -> str:
        raise error

    with pytest.raises(error):
        load_engine(ModelArgs(id="m", source=FAKE_SOURCE), build)
