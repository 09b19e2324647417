"""JSON schemas of manifests, strict: a field that Kubernetes would drop or refuse is an error.

All of them are parts of the definition of KubeRay's RayService, which contains whole pods,
services, claims of volumes and rules of networks. `tests/data/kuberay/NOTICE` says where it is
from.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_FILE = Path(__file__).parents[1] / "data" / "kuberay" / "ray_service_v1.json"
_HEAD = ("properties", "spec", "properties", "rayClusterConfig", "properties", "headGroupSpec")
_TEMPLATE = (*_HEAD, "properties", "template")
_VOLUMES = (*_TEMPLATE, "properties", "spec", "properties", "volumes", "items", "properties")
_CLAIM = (*_VOLUMES, "ephemeral", "properties", "volumeClaimTemplate", "properties", "spec")
_CLUSTER = ("properties", "spec", "properties", "rayClusterConfig", "properties")
_RULES = (*_CLUSTER, "networkPolicy", "properties", "head", "properties", "ingressRules")

PARTS: Mapping[str, tuple[str, ...]] = {
    "RayService": (),
    "pod template": _TEMPLATE,
    "service": ("properties", "spec", "properties", "serveService", "properties", "spec"),
    "claim": _CLAIM,
    "ingress rules": _RULES,
}


def find_schema_problems(part: str, value: Any) -> list[str]:
    """List what a strict reading of the definition finds wrong, as `PATH: REASON`.

    Args:
        part: A key of `PARTS`.
        value: What must have this form.
    """
    return [f"{each.json_path}: {each.message[:200]}" for each in _iterate(part, value)]


def _iterate(part: str, value: Any) -> Iterator[Any]:
    return _to_validator(part).iter_errors(value)


@cache
def _to_validator(part: str) -> Any:
    schema = json.loads(_FILE.read_text())
    for key in PARTS[part]:
        schema = schema[key]
    return Draft202012Validator(to_strict(schema))


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
