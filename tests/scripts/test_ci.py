import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.service import ROOT


def write_script(path: Path, name: str, status: int) -> None:
    path.write_text(f"#!/bin/sh\necho {name}\nexit {status}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("stdin", ["</dev/null", "<&-"], ids=["empty", "closed"])
@pytest.mark.parametrize(("check", "test", "status"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (2, 5, 1)])
def test_both_run_and_either_fails_it(
    tmp_path: Path, check: int, test: int, status: int, stdin: str
) -> None:
    (tmp_path / "scripts").mkdir()
    write_script(tmp_path / "scripts" / "check", "checked", check)
    write_script(tmp_path / "scripts" / "test", "tested", test)
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")

    command = ["bash", "-c", f'exec "$0" {stdin}', tmp_path / ".ci" / "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")

    assert (done.returncode, done.stdout) == (status, "checked\ntested\n")
