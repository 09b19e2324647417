"""Runs infinity-emb in its own environment, because it needs older libraries.

The environment is made at the first use, from requirements/bench-infinity.txt and the project's own
CPU build of torch, in .triptych/bench/infinity; it is kept.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.benchmark.stacks.launch import KEY, ROOT, Launch, Model, StackError

TORCH = ROOT / "requirements" / "torch-cpu.txt"
LOCK = ROOT / "requirements" / "bench-infinity.txt"
TORCH_INDEX = ("--index-url", "https://download.pytorch.org/whl/cpu")
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--no-deps")
INSTALL_S = 1200.0
OPTIONS = (
    ("--engine", "torch"),
    ("--device", "cpu"),
    ("--no-vector-disk-cache",),  # it would answer a repeated text from a file
    ("--log-level", "warning"),
    # Measured with 0.0.78 on two cores: torch.compile, BetterTransformer (with its older
    # transformers) and batches of 64 are not faster, within the noise of 5 %; float32 takes 2.6
    # times the CPU time of bfloat16.
    ("--no-compile",),
    ("--no-bettertransformer",),
)
SILENT = {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


def launch_infinity(model: Model, home: Path, env: dict[str, str], port: int, log: Path) -> Launch:
    """Build the command of the server; make its environment if there is none.

    Raises:
        StackError: the environment cannot be made.
    """
    python = prepare_environment(home / "bench" / "infinity", log)
    command = [str(python.with_name("infinity_emb")), "v2", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--api-key", KEY, "--model-id", model.source]
    command += ["--served-model-name", model.name, "--dtype", model.engine["dtype"]]
    command += [word for option in OPTIONS for word in option]
    return Launch(command, ROOT, {**env, **SILENT}, port)


def prepare_environment(
    folder: Path, log: Path, *, python: str = sys.executable, torch: Path = TORCH, lock: Path = LOCK
) -> Path:
    """Return the Python of the environment; make it unless it has these requirements.

    Args:
        folder: Where the environment is.
        log: Where the output of pip goes.
        python: The Python that makes it.
        torch: The requirement of torch.
        lock: All other requirements.

    Raises:
        StackError: the environment cannot be made; the log says why.
    """
    own_python, stamp = folder / "bin" / "python", folder / ".set-up"
    version = to_version(torch, lock)
    if stamp.exists() and stamp.read_text() == version:
        return own_python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"[bench] making infinity's environment in {folder} (1.4 GB)", flush=True)
    install = [str(own_python), *PIP]
    install_torch = [*install, "-r", str(torch)]
    steps = [
        [[python, "-m", "venv", str(folder)]],
        [
            install_torch,
            [*install_torch, *TORCH_INDEX],
        ],  # the second if the first has no such build
        [[*install, "--require-hashes", "-r", str(lock)]],
    ]
    with log.open("w") as output:
        for ways in steps:
            if not any(_succeeds(way, output.fileno()) for way in ways):
                raise StackError(f"its environment cannot be made: see {log}")
    stamp.write_text(version)
    return own_python


def to_version(*requirements: Path) -> str:
    """Hash the requirements of an environment, together with the Python that makes it."""
    content = b"\0".join([sys.version.encode(), *(path.read_bytes() for path in requirements)])
    return hashlib.sha256(content).hexdigest()


def _succeeds(command: list[str], output: int) -> bool:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    try:
        run = subprocess.run(
            command, env=env, stdout=output, stderr=output, timeout=INSTALL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0
