import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.service import ROOT

SCRIPTS = ["bench", "serve", "check_config", "keys", "usage"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that is not set up, and cannot be."""
    for folder in ("api", "deployments", "scripts"):
        ignored = shutil.ignore_patterns("demo", "__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    (tmp_path / "pyproject.toml").touch()
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
        ("serve", ["usage: scripts/serve", "--config FILE", "--port N", "TRIPTYCH_EXTRA"]),
        ("check_config", ["usage: triptych check [-h] [FILE]"]),
        ("keys", ["usage: triptych keys", "create", "TRIPTYCH_ADMIN_KEY"]),
        ("usage", ["usage: triptych usage", "--month YYYY-MM"]),
        ("docs", ["Usage: scripts/docs", "--check"]),
        ("audit", ["Usage: scripts/audit", "--sbom FILE"]),
    ],
)
def test_help_is_printed_without_a_set_up(
    checkout: Path, script: str, said: list[str], option: str
) -> None:
    done = run(checkout, script, option)

    assert (done.returncode, done.stderr) == (0, "")
    assert [words for words in said if words not in done.stdout] == []


def test_help_of_a_subcommand_is_printed_without_a_set_up(checkout: Path) -> None:
    done = run(checkout, "keys", "rotate", "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert "--grace TIME" in done.stdout


def test_two_configurations_are_refused(checkout: Path) -> None:
    done = run(checkout, "check_config", "a.yaml", "b.yaml")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: scripts/check_config [FILE]")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_other_call_sets_up_first(checkout: Path, script: str) -> None:
    assert run(checkout, script).returncode == 9


@pytest.mark.parametrize("script", ["check_config", "keys", "usage"])
def test_set_up_leaves_stdout_to_the_command(checkout: Path, script: str) -> None:
    (checkout / "scripts" / "setup").write_text("#!/bin/sh\necho installing\nexit 9\n")

    done = run(checkout, script)

    assert (done.stdout, done.stderr) == ("", "installing\n")
