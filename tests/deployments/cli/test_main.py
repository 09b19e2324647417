import subprocess
import sys
from pathlib import Path

import pytest

from deployments.cli.main import main
from tests.helpers.service import ROOT

COMMANDS = ["keys", "usage", "check", "serve", "bench"]
HEAVY = ["asyncio", "pydantic", "sqlalchemy", "aiohttp", "ray", "torch"]


def run_triptych(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed console script from another folder."""
    command = [Path(sys.executable).with_name("triptych"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("said", [*COMMANDS, "examples:", "environment:", "TRIPTYCH_HOME"])
def test_help_lists_commands_examples_and_variables(
    option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([option])

    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("keys", ["usage: triptych keys", "examples:", "TRIPTYCH_DATABASE_URL"]),
        ("usage", ["usage: triptych usage", "examples:", "TRIPTYCH_DATABASE_URL"]),
        ("check", ["usage: triptych check", "examples:", "exit status"]),
        ("serve", ["--config FILE", "examples:", "TRIPTYCH_API_KEYS"]),
        ("bench", ["--concurrency", "examples:"]),
    ],
)
def test_installed_command_explains_each_subcommand(command: str, said: list[str]) -> None:
    done = run_triptych(command, "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert [words for words in said if words not in done.stdout] == []


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["--nothing"]])
def test_unknown_command_is_status_2_and_names_the_commands(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)

    assert capsys.readouterr().err.startswith("usage: triptych [-h] COMMAND")


@pytest.mark.usefixtures("home")
def test_keys_are_listed_by_the_keys_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list"]) == 0
    assert capsys.readouterr().out.startswith("ID")


@pytest.mark.usefixtures("home")
def test_usage_is_reported_by_the_usage_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", "--by", "model"]) == 0
    assert capsys.readouterr().out.startswith("MODEL")


def test_problems_are_printed_by_the_check_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("applications: 7")

    assert main(["check", str(file)]) == 1
    assert capsys.readouterr().err == "applications: a list of applications is needed\n"


@pytest.mark.parametrize("arguments", ["", "keys", "keys create", "usage", "check"])
def test_help_imports_nothing_heavy(arguments: str) -> None:
    code = (
        "import sys\n"
        "from deployments.cli.main import main\n"
        "try:\n"
        "    main([*sys.argv[2:], '--help'])\n"
        "finally:\n"
        "    print([name for name in sys.argv[1].split(',') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, ",".join(HEAVY), *arguments.split()]

    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)

    assert done.stdout.splitlines()[-1] == "[]"
