import pickle
from pathlib import Path

import pytest

from deployments.engines.sources import SourceError, resolve_source


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty home, an empty working directory, and an unreachable hub."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def error_of(source: str) -> str:
    with pytest.raises(SourceError) as caught:
        resolve_source("org/m", source)
    return str(caught.value)


def test_demo_source_is_a_folder_in_the_home(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "models" / "shapes"
    folder.mkdir(parents=True)

    assert resolve_source("m", "demo:shapes") == folder


@pytest.mark.parametrize("name", ["shapes", "", "../models", "a/b", ".", "/etc"])
def test_missing_demo_source_names_the_setup_command(name: str, tmp_path: Path) -> None:
    (tmp_path / "home" / "models").mkdir(parents=True)

    assert error_of(f"demo:{name}") == (
        f"model 'org/m': source 'demo:{name}' cannot be loaded: it has not been prepared; "
        "run ./scripts/setup"
    )


def test_absolute_folder_resolves_to_itself(tmp_path: Path) -> None:
    assert resolve_source("m", str(tmp_path)) == tmp_path


@pytest.mark.parametrize("source", ["./models/m", "models/m", "models", "models/m/", "~/models"])
def test_relative_folder_resolves_to_an_absolute_one(
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
def test_missing_folder_is_reported(source: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").touch()

    assert error_of(source) == (
        f"model 'org/m': source '{source}' cannot be loaded: there is no such folder"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("~unknown-user/m", "there is no such folder"),
        ("nul\0byte", "there is no such folder"),
        ("/" + "x" * 5000, "File name too long"),
    ],
    ids=["home", "nul", "long"],
)
def test_impossible_path_is_a_source_error(source: str, reason: str) -> None:
    assert error_of(source).endswith(f"cannot be loaded: {reason}")


@pytest.mark.parametrize(
    "source", ["org/model", "org/model@main", "org/model@refs/pr/1", "or g/mo del", "org/model@"]
)
def test_unreachable_hub_is_reported_in_one_line(source: str) -> None:
    line = error_of(source)

    assert line.startswith(
        f"model 'org/m': source '{source}' cannot be loaded: it is not a folder, and Hugging "
        "Face did not provide it ("
    )
    assert "\n" not in line


def test_revision_is_passed_to_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def download(repository: str, *, revision: str | None, ignore_patterns: list[str]) -> str:
        calls.append((repository, revision, "*.bin" in ignore_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)

    assert resolve_source("m", "org/model@refs/pr/1") == tmp_path
    assert resolve_source("m", "org/model") == tmp_path
    assert calls == [("org/model", "refs/pr/1", True), ("org/model", None, True)]


def test_only_the_first_line_of_a_reason_is_kept() -> None:
    error = SourceError("m", "s", "\n out of memory\nTraceback:\n  File x")

    assert str(error) == "model 'm': source 's' cannot be loaded: out of memory"


@pytest.mark.parametrize("reason", ["", " \n "])
def test_empty_reason_becomes_unknown_reason(reason: str) -> None:
    assert str(SourceError("m", "s", reason)).endswith("cannot be loaded: unknown reason")


def test_source_error_survives_pickle() -> None:
    error = SourceError("m", "s", "it is gone\nfor good")

    assert str(pickle.loads(pickle.dumps(error))) == str(error)
