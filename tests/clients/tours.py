"""Tours with clients of other languages and environments: a script per client, run like a user's.

A script asks the service step by step and prints a JSON object for each, which the tests judge.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deployments.home import find_home
from tests.helpers.service import ROOT, Service

HERE = Path(__file__).parent
TEXT = "The capital of France is Paris."
"""What the demo model answers everybody who asks for it."""
SKIES = ("sunny", "cloudy", "rainy")

Secrets = dict[str, str]
"""Keys that may do less than the service's own, by the names that scripts know them by."""


class Tour(dict[str, Any]):
    """What each step of a tour gave, by its name."""

    def __init__(
        self, command: list[str | Path], service: Service, secrets: Secrets | None = None
    ) -> None:
        """Take the tour, to its end."""
        keys = ("PATH", "HOME", "LANG", "TMPDIR")  # none that a client would take for its own
        environment = {key: os.environ[key] for key in keys if key in os.environ}
        ended = subprocess.run(
            command,
            env={
                **environment,
                "BASE_URL": f"{service.url}/v1",
                "API_KEY": service.key,
                **(secrets or {}),
            },
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert ended.returncode == 0, ended.stderr
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        super().__init__({line.pop("step"): line for line in lines})

    def result(self, step: str) -> Any:
        """What a step gave; that it gave something is asserted."""
        assert "result" in self[step], self[step]["error"]
        return self[step]["result"]

    def error(self, step: str) -> tuple[str, int]:
        """The client's class for the error of a step that must fail, and its status."""
        assert "error" in self[step], self[step]["result"]
        return self[step]["error"]["kind"], self[step]["error"]["status"]

    def fault(self, step: str) -> tuple[str, str, str | None]:
        """The same client's class for it, the error's code, and the parameter at fault."""
        assert "error" in self[step], self[step]["result"]
        error = self[step]["error"]
        return error["kind"], error["code"], error["param"]


def set_up(part: str) -> Path:
    """Have `scripts/setup` make what is missing; says where the tours' folders are."""
    done = subprocess.run(
        [ROOT / "scripts/setup", part, "--no-models"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    if done.returncode:
        pytest.fail(done.stderr.strip(), pytrace=False)
    return find_home() / "clients"


def is_weather(value: Any) -> bool:
    """Whether an answer is what all tours ask for when they ask for JSON."""
    return (
        value.keys() == {"sky", "is_cold", "degrees"}
        and value["sky"] in SKIES
        and isinstance(value["is_cold"], bool)
        and isinstance(value["degrees"], int)
        and 0 <= value["degrees"] <= 40
    )
