"""LiteLLM in its own environment, and the database engine that its virtual keys need.

Both are kept below .triptych/bench/litellm-VERSION; pip installs requirements/bench-litellm.txt.
Prisma, the database client, fetches a program of its own from binaries.prisma.sh; without access
to that host there are no virtual keys.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark.stacks.launch import ROOT, StackError
from scripts.benchmark.stacks.own_environment import PIP, OwnEnvironment

LOCK = ROOT / "requirements" / "bench-litellm.txt"
PRISMA_S = 300.0


@dataclass(frozen=True, slots=True)
class LiteLlm:
    """An installed LiteLLM."""

    folder: Path

    @property
    def program(self) -> Path:
        """Its command line."""
        return self.folder / "bin" / "litellm"

    @property
    def variables(self) -> dict[str, str]:
        """The environment in which Prisma finds what it has fetched."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {"HOME": str(self.folder / "home"), "PATH": path}

    def prepare_database(self) -> None:
        """Generate the database client, unless it is there.

        Raises:
            StackError: Prisma's programs cannot be fetched.
        """
        stamp = self.folder / ".prisma"
        if stamp.exists():
            return
        (schema,) = self.folder.glob("lib/python*/site-packages/litellm/proxy/schema.prisma")
        run = subprocess.run(
            [self.folder / "bin" / "prisma", "generate", "--schema", schema],
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=PRISMA_S,
        )
        if run.returncode:
            said = [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]
            raise StackError(f"Prisma, LiteLLM's database client, is not complete: {said[-1:]}")
        stamp.touch()


def prepare_litellm(cache: Path, lock: Path = LOCK) -> LiteLlm:
    """Return LiteLLM; install it unless this version is there.

    Raises:
        StackError: it cannot be installed.
    """
    version = read_version(lock.read_text())
    folder = cache / f"litellm-{version}"
    environment = OwnEnvironment(folder, (lock,), "0.8 GB")
    log = folder.with_name(f"{folder.name}.log")
    environment.prepare([[[*PIP, "--require-hashes", "-r", str(lock)]]], log)
    (folder / "home").mkdir(exist_ok=True)
    return LiteLlm(folder)


def read_version(lock: str) -> str:
    """Return LiteLLM's version in a lock."""
    match = re.search(r"^litellm(?:\[\w+\])?==(\S+)", lock, re.MULTILINE)
    if match is None:
        raise StackError("the lock has no litellm")
    return match[1]
