"""The JSON schema of a RayService, strict: a field that Kubernetes would drop is an error.

It is KubeRay's definition; `tests/data/kuberay/NOTICE` says where it is from.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_FILE = Path(__file__).parents[1] / "data" / "kuberay" / "ray_service_v1.json"


def find_schema_problems(ray_service: Any) -> list[str]:
    """List what a strict reading of the definition finds wrong, as `PATH: REASON`."""
    errors = _read_validator().iter_errors(ray_service)
    return [f"{each.json_path}: {each.message[:200]}" for each in errors]


@cache
def _read_validator() -> Any:
    return Draft202012Validator(to_strict(json.loads(_FILE.read_text())))


def to_strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a structural schema of Kubernetes into a JSON schema that allows no other fields."""
    strict: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            strict[key] = {name: to_strict(each) for name, each in value.items()}
        elif isinstance(value, dict):
            strict[key] = to_strict(value)
        elif key in ("anyOf", "oneOf", "allOf"):
            strict[key] = [to_strict(each) for each in value]
        else:
            strict[key] = value
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict
