"""Every shell and Python block runs when pasted, one after the other, beside a running service.

Blocks run in a folder that looks like a checkout: with `.triptych`, `.venv`, the configuration, and
programs that leave out their set-up.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from tests.helpers.markdown import DOCUMENTS, ROOT, Block, read_blocks
from tests.helpers.service import Service, wait_until
from tests.helpers.tiny_encoders import make_encoder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

_PROGRAMS = {"keys": "keys", "usage": "usage", "check_config": "check"}
_URL, _DASHBOARD = "http://127.0.0.1:8000", "http://127.0.0.1:8265"
_PRELUDE = """
set -o pipefail
trap 'echo "__failed__ $BASH_COMMAND"' ERR
curl() { command curl --fail-with-body --no-progress-meter "$@"; }
"""


def runnable_blocks(document: Path) -> list[Block]:
    blocks = read_blocks(document)
    return [each for each in blocks if each.language in ("sh", "python") and not each.not_run]


RUNNABLE = [document for document in DOCUMENTS if runnable_blocks(document)]


class Shell:
    """A bash that keeps its variables from block to block."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        """Start bash in `folder`."""
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.run(_PRELUDE)

    def run(self, code: str) -> None:
        """Run a block; fail with all output if one of its commands does."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin
        assert stdout
        stdin.write(f"{code}\necho\necho __done__\n")
        stdin.flush()
        output = "".join(_lines_until_done(stdout))
        assert "__failed__" not in output, output
        assert self._process.poll() is None, output

    def close(self) -> None:
        """End bash."""
        self._process.kill()
        self._process.communicate()


def _lines_until_done(stdout: IO[str]) -> Iterator[str]:
    for line in stdout:
        if line == "__done__\n":
            return
        yield line


@pytest.fixture
def folder(service: Service, tmp_path: Path) -> Path:
    """A folder that looks like a checkout in which `scripts/serve` runs."""
    (tmp_path / ".triptych").symlink_to(service.home)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "serve_config.yaml").write_text(yaml.safe_dump(service.config, sort_keys=False))
    for name, command in _PROGRAMS.items():
        _write_program(tmp_path / "scripts" / name, command)
    _write_program(tmp_path / "bin" / "triptych", "")
    return tmp_path


def _write_program(path: Path, command: str) -> None:
    path.parent.mkdir(exist_ok=True)
    program = f'"{sys.executable}" -m deployments.cli.main {command}'
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec {program} "$@"\n')
    path.chmod(0o755)


@pytest.fixture
def shell(service: Service, folder: Path) -> Iterator[Shell]:
    environment = {
        **os.environ,
        "TRIPTYCH_HOME": str(service.home),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
    }
    shell = Shell(folder, environment)
    yield shell
    shell.close()


@contextlib.contextmanager
def served_models(service: Service, document: Path, folder: Path) -> Iterator[None]:
    """Deploy the models that blocks need, as the document's YAML says, with tiny weights."""
    needed = {block.needs for block in read_blocks(document) if block.needs}
    shipped = service.config["applications"]
    extra = [each for each in find_applications(document) if each["name"] in needed]
    assert {each["name"] for each in extra} == needed
    if not extra:
        yield
        return
    for application in extra:
        assert application["import_path"] == "deployments.app:embedding"
        make_encoder(folder / application["name"])
        application["args"]["source"] = str(folder / application["name"] / "model")
    service.deploy([*shipped, *extra])
    try:
        wait_until(lambda: all(is_ready(service, each["name"]) for each in extra), timeout_s=120)
        yield
    finally:
        service.deploy(shipped)


def find_applications(document: Path) -> list[dict[str, Any]]:
    blocks = [block for block in read_blocks(document) if block.language == "yaml"]
    return [application for block in blocks for application in yaml.safe_load(block.code)]


def is_ready(service: Service, model: str) -> bool:
    states = service.ready()
    return model in states and states[model]["state"] == "ready"


def run_python(block: Block, code: str, namespace: dict[str, Any]) -> None:
    """Run a block as if pasted; a traceback shows the document's own lines."""
    padding = "\n" * (block.line - 1)
    exec(compile(padding + code, str(block.document), "exec"), namespace)


@pytest.mark.parametrize("document", RUNNABLE, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_run_when_pasted_one_after_the_other(
    service: Service,
    document: Path,
    folder: Path,
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    namespace: dict[str, Any] = {"__name__": "__main__"}

    with served_models(service, document, folder):
        for block in runnable_blocks(document):
            code = block.code.replace(_URL, service.url).replace(_DASHBOARD, service.dashboard)
            if block.language == "sh":
                shell.run(code)
            else:
                run_python(block, code, namespace)
