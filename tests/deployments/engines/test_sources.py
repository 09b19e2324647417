import pickle
from pathlib import Path

import pytest

from deployments.engines.sources import SourceError, resolve_source


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty home, an empty working directory, and a hub that is out of reach."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def refusal(source: str) -> str:
    with pytest.raises(SourceError) as caught:
        resolve_source("org/m", source)
    return str(caught.value)


def test_demo_is_a_folder_at_home(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "models" / "shapes"
    folder.mkdir(parents=True)

    assert resolve_source("m", "demo:shapes") == folder


@pytest.mark.parametrize("name", ["shapes", "", "../models", "a/b", ".", "/etc"])
def test_demo_that_is_not_there_says_how_to_make_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "home" / "models").mkdir(parents=True)

    assert refusal(f"demo:{name}") == (
        f"model 'org/m': source 'demo:{name}' cannot be loaded: it has not been prepared; "
        "run ./scripts/setup"
    )


def test_absolute_folder_is_itself(tmp_path: Path) -> None:
    assert resolve_source("m", str(tmp_path)) == tmp_path


@pytest.mark.parametrize("source", ["./models/m", "models/m", "models", "models/m/", "~/models"])
def test_folder_is_made_absolute(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models" / "m").mkdir(parents=True)

    folder = resolve_source("m", source)

    assert folder.is_absolute()
    assert folder.is_relative_to(tmp_path / "models")


@pytest.mark.parametrize(
    "source", ["/gone", "./gone", "../gone/m", "~/gone", "gone", "a/b/c", "a/", "file.txt"]
)
def test_folder_that_does_not_exist_is_said_so(source: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").touch()

    assert refusal(source) == (
        f"model 'org/m': source '{source}' cannot be loaded: there is no such folder"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("~nobody-of-that-name/m", "there is no such folder"),
        ("nul\0byte", "there is no such folder"),
        ("/" + "x" * 5000, "File name too long"),
    ],
    ids=["home", "nul", "long"],
)
def test_path_that_cannot_exist_is_a_source_error(source: str, reason: str) -> None:
    assert refusal(source).endswith(f"cannot be loaded: {reason}")


@pytest.mark.parametrize(
    "source", ["org/model", "org/model@main", "org/model@refs/pr/1", "or g/mo del", "org/model@"]
)
def test_hub_that_does_not_answer_is_said_so(source: str) -> None:
    line = refusal(source)

    assert line.startswith(
        f"model 'org/m': source '{source}' cannot be loaded: it is no folder, and the Hugging "
        "Face hub does not give it ("
    )
    assert "\n" not in line


def test_hub_is_asked_for_the_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(repository: str, *, revision: str | None, ignore_patterns: list[str]) -> str:
        asked.append((repository, revision, "*.bin" in ignore_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)

    assert resolve_source("m", "org/model@refs/pr/1") == tmp_path
    assert resolve_source("m", "org/model") == tmp_path
    assert asked == [("org/model", "refs/pr/1", True), ("org/model", None, True)]


def test_only_the_first_line_of_a_reason_is_kept() -> None:
    error = SourceError("m", "s", "\n out of memory\nTraceback:\n  File x")

    assert str(error) == "model 'm': source 's' cannot be loaded: out of memory"


@pytest.mark.parametrize("reason", ["", " \n "])
def test_reason_may_be_unknown(reason: str) -> None:
    assert str(SourceError("m", "s", reason)).endswith("cannot be loaded: unknown reason")


def test_source_error_survives_pickle() -> None:
    error = SourceError("m", "s", "it is gone\nfor good")

    assert str(pickle.loads(pickle.dumps(error))) == str(error)
