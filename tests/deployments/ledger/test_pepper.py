import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.ledger.pepper import load_pepper


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One that is not there yet, and nothing in the environment."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TRIPTYCH_PEPPER", raising=False)
    return tmp_path / "home"


def test_it_is_made_once(home: Path) -> None:
    pepper = load_pepper()

    assert load_pepper() == pepper == (home / "pepper").read_bytes().strip()
    assert len(bytes.fromhex(pepper.decode())) == 32


def test_only_the_owner_can_read_it(home: Path) -> None:
    load_pepper()

    assert stat.S_IMODE((home / "pepper").stat().st_mode) == 0o400
    assert [path.name for path in home.iterdir()] == ["pepper"]


def test_the_environment_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_PEPPER", "e" * 32 + "\n")

    assert load_pepper() == b"e" * 32
    assert not home.exists()


def test_the_file_may_become_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pepper = load_pepper()
    monkeypatch.setenv("TRIPTYCH_PEPPER", (home / "pepper").read_text())
    (home / "pepper").unlink()

    assert load_pepper() == pepper


def test_a_short_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_PEPPER", "e" * 31)

    with pytest.raises(ValueError, match=r"^TRIPTYCH_PEPPER: at least 32 characters are needed$"):
        load_pepper()


def test_a_damaged_file_is_refused(home: Path) -> None:
    home.mkdir()
    (home / "pepper").write_text("\n")

    with pytest.raises(ValueError, match="at least 32"):
        load_pepper()


def test_of_several_processes_all_get_the_same(home: Path) -> None:
    program = "from deployments.ledger.pepper import load_pepper; print(load_pepper().decode())"
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ)
        for _ in range(6)
    ]
    peppers = {process.communicate()[0] for process in running}

    assert peppers == {load_pepper() + b"\n"}
    assert [path.name for path in home.iterdir()] == ["pepper"]
