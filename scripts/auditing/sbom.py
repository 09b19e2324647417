"""Writes locks as a bill of materials, in CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/)."""

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from scripts.auditing.locks import Pin

_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 9562's for URLs


def to_sbom(version: str, pins: Iterable[Pin], licences: Mapping[str, str]) -> dict[str, Any]:
    """Build a document that depends on its arguments only.

    Args:
        version: of Triptych.
        pins: the packages.
        licences: package → its licence as an expression of SPDX, where it is known.
    """
    components = [_to_component(pin, licences.get(pin.name)) for pin in sorted(pins, key=_by_name)]
    content = json.dumps(components, sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, content)}",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "name": "triptych", "version": version},
        },
        "components": components,
    }


def _by_name(pin: Pin) -> tuple[str, str]:
    return pin.name, pin.version


def _to_component(pin: Pin, licence: str | None) -> dict[str, Any]:
    purl = f"pkg:pypi/{pin.name}@{pin.version.replace('+', '%2B')}"
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": pin.name,
        "version": pin.version,
        "purl": purl,
    }
    if licence is not None:
        component["licenses"] = [{"expression": licence}]
    if len(pin.hashes) == 1:  # of several files, the lock does not say which is installed
        component["hashes"] = [{"alg": "SHA-256", "content": pin.hashes[0]}]
    return component
