"""The shipped configuration with one mistake in it, and the problems that the check finds there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from deployments.check.configuration import find_problems

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "serve_config.yaml"
INGRESS, LLM, EMBEDDING, DIFFUSION, LEDGER = range(5)
"""Indices of its applications."""

Change = Callable[[Any], None]


def read_shipped() -> Any:
    """Read the shipped configuration."""
    return yaml.safe_load(SHIPPED.read_text())


def problems(change: Change) -> list[str]:
    """Apply a change to the shipped configuration; return its problems without repetitions."""
    config = read_shipped()
    change(config)
    return list(dict.fromkeys(find_problems(config)))


def put(*path: Any) -> Change:
    """Set the value at a path: `put("applications", 0, "name", "x")`."""
    *way, key, value = path

    def change(config: Any) -> None:
        for step in way:
            config = config[step]
        config[key] = value

    return change


def take(*path: Any) -> Change:
    """Remove the value at a path."""
    *way, key = path

    def change(config: Any) -> None:
        for step in way:
            config = config[step]
        del config[key]

    return change
