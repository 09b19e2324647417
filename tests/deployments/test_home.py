from pathlib import Path

import pytest

from deployments.home import find_checkout, find_home


def test_home_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))

    assert find_home() == tmp_path


def test_home_in_the_environment_may_begin_with_a_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TRIPTYCH_HOME", "~/models")

    assert find_home() == tmp_path / "models"


@pytest.mark.parametrize("value", ["", None])
def test_home_is_in_the_checkout_otherwise(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.setenv("TRIPTYCH_HOME", value or "")

    assert find_home() == Path(__file__).parents[2] / ".triptych"


def test_home_of_an_installed_wheel_is_in_the_users_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TRIPTYCH_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert find_home(tmp_path / "site-packages" / "deployments") == tmp_path / ".triptych"


def test_package_of_a_checkout_finds_the_checkout() -> None:
    assert find_checkout() == Path(__file__).parents[2]


def test_package_of_a_wheel_finds_no_checkout(tmp_path: Path) -> None:
    assert find_checkout(tmp_path / "site-packages" / "deployments") is None
