"""Makes a Python environment for a peer whose libraries do not fit beside the project's own.

It is made at the first use, and again when its requirements or the Python that makes it change.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark.stacks.launch import StackError

PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--no-deps")
INSTALL_S = 1200.0


@dataclass(frozen=True, slots=True)
class OwnEnvironment:
    """A folder with a Python environment."""

    folder: Path
    requirements: tuple[Path, ...]
    size: str  # for the one line that announces the download

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "bin" / "python"

    def prepare(
        self, steps: Sequence[Sequence[Sequence[str]]], log: Path, *, maker: str = sys.executable
    ) -> None:
        """Make the environment unless it has these requirements.

        Args:
            steps: Arguments of the environment's Python; of each step the first way that succeeds.
            log: Where the output of the steps goes.
            maker: The Python that makes the environment.

        Raises:
            StackError: the environment cannot be made; the log says why.
        """
        stamp, version = self.folder / ".set-up", to_version(*self.requirements)
        if stamp.exists() and stamp.read_text() == version:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"[bench] making the environment {self.folder} ({self.size})", flush=True)
        commands = [[[maker, "-m", "venv", str(self.folder)]]]
        commands += [[[str(self.python), *way] for way in ways] for ways in steps]
        with log.open("w") as output:
            for ways in commands:
                if not any(succeeds(way, output.fileno()) for way in ways):
                    raise StackError(f"its environment cannot be made: see {log}")
        stamp.write_text(version)


def to_version(*requirements: Path) -> str:
    """Hash the requirements of an environment, together with the Python that makes it."""
    content = b"\0".join([sys.version.encode(), *(path.read_bytes() for path in requirements)])
    return hashlib.sha256(content).hexdigest()


def succeeds(command: Sequence[str], output: int) -> bool:
    """Run a command without variables that would lead it to another Python's packages."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    try:
        run = subprocess.run(
            command, env=env, stdout=output, stderr=output, timeout=INSTALL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0
