from pathlib import Path

import pytest

from deployments.config import AuthArgs
from deployments.keys import NoApiKeys, load_api_keys

ON, OFF = AuthArgs(), AuthArgs(required=False)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty one, and no key in the environment."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))
    monkeypatch.delenv("TRIPTYCH_API_KEYS", raising=False)
    return tmp_path


def accepted(*keys: str) -> list[bool]:
    loaded = load_api_keys(ON)
    assert loaded is not None
    return [loaded.current.find(key, 0.0) is not None for key in keys]


def test_authentication_may_be_off() -> None:
    assert load_api_keys(OFF) is None


def test_off_wins_over_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")

    assert load_api_keys(OFF) is None


@pytest.mark.parametrize(
    "value", ["sk-one,sk-two", " sk-one , sk-two ", "sk-one,,sk-two,", "sk-two\n,sk-one\n"]
)
def test_keys_of_the_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", value)

    assert accepted("sk-one", "sk-two", "", " ", "sk-three") == [True, True, False, False, False]


def test_key_of_the_file(home: Path) -> None:
    (home / "api_key").write_text("sk-file\n")

    assert accepted("sk-file", "sk-one") == [True, False]


def test_keys_of_the_file_may_stand_on_lines_of_their_own(home: Path) -> None:
    (home / "api_key").write_text("sk-one\nsk-two,\n")

    assert accepted("sk-one", "sk-two") == [True, True]


def test_environment_wins_over_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "api_key").write_text("sk-file\n")
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")

    assert accepted("sk-one", "sk-file") == [True, False]


def test_empty_environment_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "api_key").write_text("sk-file\n")
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "")

    assert accepted("sk-file") == [True]


def test_no_key_refuses_to_start_and_says_how_to_make_one() -> None:
    with pytest.raises(NoApiKeys, match=r"TRIPTYCH_API_KEYS.*scripts/serve.*required: false"):
        load_api_keys(ON)


@pytest.mark.parametrize("value", [",", " , ,", "\n"])
def test_environment_of_commas_is_no_key(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", value)

    with pytest.raises(NoApiKeys):
        load_api_keys(ON)


@pytest.mark.parametrize("content", ["", "\n"])
def test_empty_file_is_no_key(home: Path, content: str) -> None:
    (home / "api_key").write_text(content)

    with pytest.raises(NoApiKeys):
        load_api_keys(ON)


def test_keys_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")

    assert "sk-one" not in repr(load_api_keys(ON))
