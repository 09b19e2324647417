import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.disks import filled, small_disk
from tests.helpers.service import ROOT


def start(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts/service/run_service.py"],
        env={**os.environ, "TRIPTYCH_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 64) as disk:
        yield disk


def check_refused(home: Path, reason: str) -> None:
    run = start(home)

    assert run.returncode == 1
    assert run.stderr.startswith("scripts/serve: the home folder")
    assert reason in run.stderr
    assert run.stderr.count("\n") == 1


def test_start_in_a_home_that_cannot_be_made_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_refused(tmp_path / "file" / "home", "Not a directory")


def test_start_in_a_read_only_home_is_refused_with_the_reason(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    check_refused(disk, "Read-only file system")


def test_start_on_a_full_disk_is_refused_with_the_reason(disk: Path) -> None:
    with filled(disk):
        check_refused(disk / "home", "No space left on device")
