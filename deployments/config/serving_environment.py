"""The environment variables of Ray, Serve and vLLM that are the same on every machine."""

from pathlib import Path

import yaml

_FILE = Path(__file__).with_name("serving_environment.yaml")


def load_serving_environment() -> dict[str, str]:
    """Read the variables from `serving_environment.yaml`, which gives the reason for each."""
    variables: dict[str, str] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return variables
