import pickle
from collections.abc import Collection
from pathlib import Path

import pytest

from deployments.engines.sources import SourceError, find_problem, resolve_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty home, an empty working directory, and an unreachable hub."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def error_of(source: str, trust: Collection[str] = ()) -> str:
    with pytest.raises(SourceError) as caught:
        resolve_source("org/m", source, trust)
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
    line = error_of(source, {"unpinned"})

    assert line.startswith(
        f"model 'org/m': source '{source}' cannot be loaded: it is not a folder, and Hugging "
        "Face did not provide it ("
    )
    assert "\n" not in line


@pytest.mark.parametrize(
    ("revision", "named"),
    [
        ("", "main"),
        ("@", "main"),
        ("@main", "main"),
        ("@refs/pr/1", "refs/pr/1"),
        ("@0123456", "0123456"),
        (f"@{COMMIT.upper()}", COMMIT.upper()),
        (f"@{COMMIT}0", f"{COMMIT}0"),
    ],
)
def test_model_of_the_hub_without_a_commit_is_refused(revision: str, named: str) -> None:
    reason = (
        f"'{named}' is no commit, and what a branch or tag names can change at any time; write "
        "the 40 hexadecimal digits of a commit after '@', or set 'trust: [unpinned]' under args"
    )

    assert error_of(f"org/model{revision}", {"code", "pickles"}).endswith(f"loaded: {reason}")
    assert find_problem(f"org/model{revision}", ()) == reason
    assert find_problem(f"org/model{revision}", {"unpinned"}) is None


def test_pinned_model_of_the_hub_is_no_problem() -> None:
    assert find_problem(f"org/model@{COMMIT}", ()) is None


class FakeHub:
    """Has one model, with the files that a test gives it."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self.downloads: list[tuple[str, str | None]] = []
        self.ignored: list[str] = []
        for name in names:
            (folder / name).touch()

    def download(self, repository: str, *, revision: str | None, ignore_patterns: list[str]) -> str:
        self.downloads.append((repository, revision))
        self.ignored = ignore_patterns
        return str(self.folder)


def test_revision_is_passed_to_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = FakeHub(tmp_path, "model.safetensors")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.download)

    assert resolve_source("m", f"org/model@{COMMIT}") == tmp_path
    assert resolve_source("m", "org/model", {"unpinned"}) == tmp_path
    assert hub.downloads == [("org/model", COMMIT), ("org/model", None)]


@pytest.mark.parametrize(
    ("trust", "ignored", "wanted"),
    [
        ((), {"*.py", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"}, set[str]()),
        (("code",), {"*.bin"}, {"*.py"}),
        (("pickles",), {"*.py"}, {"*.bin", "*.pt"}),
    ],
)
def test_code_and_pickles_are_downloaded_if_they_are_trusted(
    trust: Collection[str],
    ignored: set[str],
    wanted: set[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    hub = FakeHub(tmp_path, "model.safetensors")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.download)

    resolve_source("m", f"org/model@{COMMIT}", trust)

    assert ignored <= set(hub.ignored)
    assert not wanted & set(hub.ignored)


def test_model_of_the_hub_without_safetensors_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = FakeHub(tmp_path, "config.json")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.download)

    assert "it has no .safetensors file" in error_of(f"org/model@{COMMIT}")
    assert resolve_source("m", f"org/model@{COMMIT}", {"pickles"}) == tmp_path


@pytest.mark.parametrize(
    ("name", "trust"), [("modeling.py", "code"), ("pytorch_model.bin", "pickles")]
)
def test_folder_with_what_can_run_code_is_refused_unless_trusted(
    name: str, trust: str, tmp_path: Path
) -> None:
    (tmp_path / name).touch()

    assert f"cannot be loaded: '{name}' " in error_of(str(tmp_path))
    assert f"'{name}' " in str(find_problem(str(tmp_path), ()))
    assert resolve_source("m", str(tmp_path), {trust}) == tmp_path
    assert find_problem(str(tmp_path), {trust}) is None


@pytest.mark.parametrize("source", ["/gone", "demo:gone", "/" + "x" * 5000, "fake"])
def test_folder_that_is_not_here_may_be_where_it_serves(source: str) -> None:
    assert find_problem(source, ()) is None


def test_folder_that_cannot_be_read_is_a_source_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(folder: Path, trust: Collection[str]) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("deployments.engines.sources.find_risk", refuse)

    assert error_of(str(tmp_path)).endswith("cannot be loaded: Permission denied")


def test_only_the_first_line_of_a_reason_is_kept() -> None:
    error = SourceError("m", "s", "\n out of memory\nTraceback:\n  File x")

    assert str(error) == "model 'm': source 's' cannot be loaded: out of memory"


@pytest.mark.parametrize("reason", ["", " \n "])
def test_empty_reason_becomes_unknown_reason(reason: str) -> None:
    assert str(SourceError("m", "s", reason)).endswith("cannot be loaded: unknown reason")


def test_source_error_survives_pickle() -> None:
    error = SourceError("m", "s", "it is gone\nfor good")

    assert str(pickle.loads(pickle.dumps(error))) == str(error)
