"""Runs infinity-emb in its own environment, because it needs older libraries.

The environment is made at the first use, from requirements/bench-infinity.txt and the project's own
CPU build of torch, in .triptych/bench/infinity; it is kept.
"""

import sys
from pathlib import Path

from scripts.benchmark.stacks.launch import KEY, ROOT, Launch, Model
from scripts.benchmark.stacks.own_environment import PIP, OwnEnvironment

TORCH = ROOT / "requirements" / "torch-cpu.txt"
LOCK = ROOT / "requirements" / "bench-infinity.txt"
TORCH_INDEX = ("--index-url", "https://download.pytorch.org/whl/cpu")
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
    environment = OwnEnvironment(folder, (torch, lock), "1.4 GB")
    install_torch = [*PIP, "-r", str(torch)]
    steps = [
        # The second way if the first has no such build.
        [install_torch, [*install_torch, *TORCH_INDEX]],
        [[*PIP, "--require-hashes", "-r", str(lock)]],
    ]
    environment.prepare(steps, log, maker=python)
    return environment.python
