"""Programs that use a client library of another language or environment, as a user's would.

A program sends requests in named steps and prints a JSON object for each; tests check the objects.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deployments.home import find_home
from tests.helpers.service import ROOT, Service

PROGRAMS = ROOT / "tests" / "clients"
TEXT = "The capital of France is Paris."
"""The demo model's answer to the programs' `QUESTION`."""
SKIES = ("sunny", "cloudy", "rainy")

Secrets = dict[str, str]
"""Keys with fewer rights than the service's own, by the name of their environment variable."""


class ClientRun(dict[str, Any]):
    """What each step of a client program printed, by the step's name."""

    def __init__(
        self, command: list[str | Path], service: Service, secrets: Secrets | None = None
    ) -> None:
        """Run the program to its end; it must exit with status 0."""
        keys = ("PATH", "HOME", "LANG", "TMPDIR")  # no variable that a client library reads
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
        """The result of a step, which must have succeeded."""
        assert "result" in self[step], self[step]["error"]
        return self[step]["result"]

    def error(self, step: str) -> tuple[str, int]:
        """The client's error class and the HTTP status of a step, which must have failed."""
        assert "error" in self[step], self[step]["result"]
        return self[step]["error"]["kind"], self[step]["error"]["status"]

    def error_details(self, step: str) -> tuple[str, str, str | None]:
        """The client's error class, the error's code and its parameter, of a failed step."""
        assert "error" in self[step], self[step]["result"]
        error = self[step]["error"]
        return error["kind"], error["code"], error["param"]


def set_up(part: str) -> Path:
    """Run `scripts/setup` for `node` or `clients`; return the folder that holds both."""
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
    """Whether a result fits the schema that all programs request JSON with."""
    return (
        value.keys() == {"sky", "is_cold", "degrees"}
        and value["sky"] in SKIES
        and isinstance(value["is_cold"], bool)
        and isinstance(value["degrees"], int)
        and 0 <= value["degrees"] <= 40
    )
