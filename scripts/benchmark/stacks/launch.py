"""What every stack is started from: a model, and the command of its process tree."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
KEY = "sk-benchmark"  # not secret: every stack listens on loopback, for minutes
MAX_STREAMS = 8192  # what a stack of Ray Serve lets in at once


class StackError(Exception):
    """A stack did not start, or a measurement failed; the message says why."""


@dataclass(frozen=True, slots=True)
class Model:
    """What a stack serves."""

    name: str
    source: str
    engine: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Launch:
    """How a process tree is started, and where it will listen."""

    command: list[str]
    cwd: Path
    env: dict[str, str]
    port: int
    key: str = KEY


def to_flags(engine: dict[str, Any]) -> list[str]:
    """Convert engine options to flags of vLLM's command line."""
    flags = []
    for name, value in engine.items():
        flag = name.replace("_", "-")
        if value is True or value is False:
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, dict):
            flags.append(f"--{flag}={json.dumps(value)}")
        else:
            flags.append(f"--{flag}={value}")
    return flags


def with_path(env: dict[str, str], folder: Path) -> dict[str, str]:
    """Return the environment with a folder before those that Python already searches."""
    known = [env["PYTHONPATH"]] if env.get("PYTHONPATH") else []
    return {**env, "PYTHONPATH": os.pathsep.join([str(folder), *known])}
