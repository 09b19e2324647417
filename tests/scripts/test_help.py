import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.service import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One that is not set up, and cannot be."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("demo"))
    (tmp_path / "scripts" / "setup").write_text("#!/bin/sh\nexit 9\n")
    return tmp_path


def run(checkout: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [checkout / "scripts" / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("bench", ["usage: scripts/bench", "--concurrency", "examples:"]),
        ("serve", ["Usage: scripts/serve", "--config FILE", "--port N"]),
        ("check_config", ["Usage: scripts/check_config [FILE]"]),
    ],
)
def test_help_waits_for_no_set_up(
    checkout: Path, script: str, said: list[str], option: str
) -> None:
    done = run(checkout, script, option)

    assert (done.returncode, done.stderr) == (0, "")
    assert [words for words in said if words not in done.stdout] == []


def test_two_configurations_are_refused(checkout: Path) -> None:
    done = run(checkout, "check_config", "a.yaml", "b.yaml")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: scripts/check_config [FILE]")


@pytest.mark.parametrize("script", ["bench", "serve", "check_config"])
def test_all_else_sets_up_first(checkout: Path, script: str) -> None:
    assert run(checkout, script).returncode == 9
