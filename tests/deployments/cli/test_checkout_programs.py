import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from deployments.cli.checkout_programs import PROGRAMS, run_program
from tests.helpers.service import ROOT

BENCH = replace(PROGRAMS["bench"], packages=())


@dataclass
class FakeExecve:
    """Remembers what this process would have been replaced by."""

    calls: list[list[str]] = field(default_factory=list)
    python_path: str | None = None

    def __call__(self, path: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.calls.append([path, *arguments[1:]])
        self.python_path = environment.get("PYTHONPATH")


@pytest.fixture
def execve(monkeypatch: pytest.MonkeyPatch) -> FakeExecve:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return FakeExecve()


def test_service_is_run_by_its_path(execve: FakeExecve) -> None:
    run_program(PROGRAMS["serve"], ["--port", "1"], ROOT, execve)

    program = str(ROOT / "scripts" / "service" / "run_service.py")
    assert execve.calls == [[sys.executable, program, "--port", "1"]]
    assert execve.python_path is None  # replicas must not be able to import the scripts


def test_benchmark_is_run_as_a_module_of_the_checkout(execve: FakeExecve) -> None:
    run_program(BENCH, ["--rounds", "1"], ROOT, execve)

    assert execve.calls == [[sys.executable, "-m", "scripts.benchmark.main", "--rounds", "1"]]
    assert execve.python_path == str(ROOT)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_of_the_benchmark_needs_no_packages(execve: FakeExecve, option: str) -> None:
    run_program(replace(BENCH, packages=("no_such_package",)), [option], ROOT, execve)

    assert execve.calls == [[sys.executable, "-m", "scripts.benchmark.options"]]


def test_missing_packages_are_one_line_that_says_what_installs_them(
    execve: FakeExecve, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run_program(replace(BENCH, packages=("no_such_package",)), [], ROOT, execve)

    assert (status, execve.calls) == (1, [])
    assert capsys.readouterr().err == (
        "triptych bench: no_such_package missing; scripts/bench installs what it needs\n"
    )


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "serve",
            "triptych serve: needs a checkout of the project; elsewhere run: serve run CONFIG\n",
        ),
        ("bench", "triptych bench: needs a checkout of the project\n"),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_installed_wheel_says_in_one_line_that_a_checkout_is_needed(
    name: str,
    line: str,
    arguments: list[str],
    execve: FakeExecve,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_program(PROGRAMS[name], arguments, None, execve) == 1
    assert execve.calls == []
    assert capsys.readouterr() == ("", line)


def test_source_archive_without_scripts_is_no_checkout(
    tmp_path: Path, execve: FakeExecve, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").touch()

    assert run_program(PROGRAMS["serve"], [], tmp_path, execve) == 1
    assert "needs a checkout" in capsys.readouterr().err
