"""infinity-emb, in an environment of its own: it wants older libraries than ours.

The environment is made when first asked for, from requirements/bench-infinity.txt and the CPU build
of torch that the project itself runs with, in .triptych/bench/infinity; it is kept.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.benchmark.stacks.running import StackError
from scripts.benchmark.stacks.stacks import KEY, ROOT, Launch, Model

TORCH = ROOT / "requirements" / "torch-cpu.txt"
LOCK = ROOT / "requirements" / "bench-infinity.txt"
TORCH_INDEX = ("--index-url", "https://download.pytorch.org/whl/cpu")
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--no-deps")
MAKING_S = 1200.0
OPTIONS = (
    ("--engine", "torch"),
    ("--device", "cpu"),
    ("--no-vector-disk-cache",),  # it would answer a text that comes again from a file
    ("--log-level", "warning"),
    # Seen with 0.0.78 on two cores: none of torch.compile, BetterTransformer (with the older
    # transformers that it needs) and batches of 64 took less CPU time for a text, beyond the noise
    # of 5 %; float32 took 2.6 times that of bfloat16.
    ("--no-compile",),
    ("--no-bettertransformer",),
)
SILENT = {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


def launch_infinity(model: Model, home: Path, env: dict[str, str], port: int, log: Path) -> Launch:
    """What to start; the environment is made if it is not there.

    Raises:
        StackError: it cannot be made.
    """
    python = prepare_environment(home / "bench" / "infinity", log)
    command = [str(python.with_name("infinity_emb")), "v2", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--api-key", KEY, "--model-id", model.source]
    command += ["--served-model-name", model.name, "--dtype", model.engine["dtype"]]
    command += [word for option in OPTIONS for word in option]
    return Launch(command, ROOT, {**env, **SILENT}, port)


def prepare_environment(folder: Path, log: Path) -> Path:
    """The Python of the environment, which is made unless it is of these requirements.

    Raises:
        StackError: it cannot be made; the log says why.
    """
    python, stamp = folder / "bin" / "python", folder / ".set-up"
    version = to_version(TORCH, LOCK)
    if stamp.exists() and stamp.read_text() == version:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"[bench] making infinity's environment in {folder} (1.4 GB)", flush=True)
    torch = [str(python), *PIP, "-r", str(TORCH)]
    steps = [
        [[sys.executable, "-m", "venv", str(folder)]],
        [torch, [*torch, *TORCH_INDEX]],  # as scripts/setup: the second where the first has none
        [[str(python), *PIP, "--require-hashes", "-r", str(LOCK)]],
    ]
    with log.open("w") as output:
        for ways in steps:
            if not any(_succeeds(way, output.fileno()) for way in ways):
                raise StackError(f"its environment cannot be made: see {log}")
    stamp.write_text(version)
    return python


def to_version(*requirements: Path) -> str:
    """One word for what an environment is made of, the Python that makes it included."""
    content = b"\0".join([sys.version.encode(), *(path.read_bytes() for path in requirements)])
    return hashlib.sha256(content).hexdigest()


def _succeeds(command: list[str], output: int) -> bool:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    try:
        run = subprocess.run(
            command, env=env, stdout=output, stderr=output, timeout=MAKING_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0
