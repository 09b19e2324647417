import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.ledger.pepper import load_pepper


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder that does not exist yet, and no pepper in the environment."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TRIPTYCH_PEPPER", raising=False)
    return tmp_path / "home"


def test_pepper_is_created_once(home: Path) -> None:
    pepper = load_pepper()

    assert load_pepper() == pepper == (home / "pepper").read_bytes().strip()
    assert len(bytes.fromhex(pepper.decode())) == 32


def test_only_the_owner_can_read_the_file(home: Path) -> None:
    load_pepper()

    assert stat.S_IMODE((home / "pepper").stat().st_mode) == 0o400
    assert [path.name for path in home.iterdir()] == ["pepper"]


def test_environment_takes_precedence_over_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_PEPPER", "e" * 32 + "\n")

    assert load_pepper() == b"e" * 32
    assert not home.exists()


def test_content_of_the_file_may_be_moved_to_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pepper = load_pepper()
    monkeypatch.setenv("TRIPTYCH_PEPPER", (home / "pepper").read_text())
    (home / "pepper").unlink()

    assert load_pepper() == pepper


def test_short_pepper_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_PEPPER", "e" * 31)

    with pytest.raises(ValueError, match=r"^TRIPTYCH_PEPPER: at least 32 characters are needed$"):
        load_pepper()


def test_damaged_file_raises(home: Path) -> None:
    home.mkdir()
    (home / "pepper").write_text("\n")

    with pytest.raises(ValueError, match="at least 32"):
        load_pepper()


def test_concurrent_processes_get_the_same_pepper(home: Path) -> None:
    program = "from deployments.ledger.pepper import load_pepper; print(load_pepper().decode())"
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ)
        for _ in range(6)
    ]
    peppers = {process.communicate()[0] for process in running}

    assert peppers == {load_pepper() + b"\n"}
    assert [path.name for path in home.iterdir()] == ["pepper"]
