"""Renders the kustomizations of deployments/kuberay, as `kubectl kustomize` would, without it.

Only what they use is known: resources, a namespace, images, merge patches of one object, and JSON
patches with a target. Everything else raises, so that no part of a kustomization is left untested.
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

_KNOWN = {"apiVersion", "kind", "resources", "namespace", "images", "patches"}


def render(folder: Path) -> list[Manifest]:
    """Render the kustomization in a folder.

    Raises:
        ValueError: it uses something that is not known here.
    """
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(kustomization) - _KNOWN:
        raise ValueError(f"{folder}: unknown {unknown}")
    manifests = [each for path in kustomization["resources"] for each in _load(folder / path)]
    for patch in kustomization.get("patches", []):
        _apply_patch(manifests, patch, yaml.safe_load((folder / patch["path"]).read_text()))
    for manifest in manifests:
        if namespace := kustomization.get("namespace"):
            manifest["metadata"]["namespace"] = namespace
        for image in kustomization.get("images", []):
            _rename_images(manifest, image)
    return manifests


def find(manifests: list[Manifest], kind: str, name: str = "triptych") -> Manifest:
    """Find the one manifest of a kind and a name."""
    (found,) = [each for each in manifests if _identity(each) == (kind, name)]
    return found


def _load(path: Path) -> list[Manifest]:
    if path.is_dir():
        return render(path)
    # A copy of each part: YAML's aliases are one object in Python, and patches change objects.
    return [_without_aliases(each) for each in yaml.safe_load_all(path.read_text())]


def _without_aliases(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_aliases(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_aliases(each) for each in value]
    return value


def _identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _apply_patch(manifests: list[Manifest], patch: Mapping[str, Any], content: Any) -> None:
    if isinstance(content, list):
        target = patch["target"]
        manifest = find(manifests, target["kind"], target["name"])
        for operation in content:
            _apply_operation(manifest, operation)
    else:
        _merge(find(manifests, *_identity(content)), content)


def _apply_operation(manifest: Manifest, operation: Mapping[str, Any]) -> None:
    *parents, last = operation["path"].lstrip("/").split("/")
    place: Any = manifest
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    value = copy.deepcopy(operation["value"])
    match operation["op"], place:
        case "add", list() if last == "-":
            place.append(value)
        case "replace", dict() if last in place:
            place[last] = value
        case other, _:
            raise ValueError(f"{operation['path']}: unknown operation {other}")


def _merge(target: Any, patch: Mapping[str, Any]) -> None:
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        elif value is None:
            raise ValueError(f"{key}: removing by a merge patch is not known here")
        else:
            target[key] = copy.deepcopy(value)


def _rename_images(manifest: Manifest, image: Mapping[str, str]) -> None:
    for container in find_containers(manifest):
        if container["image"] == image["name"]:
            container["image"] = f"{image['newName']}:{image['newTag']}"


def find_containers(value: Any) -> Iterator[Manifest]:
    """Yield all containers below a part of a manifest."""
    for template in find_templates(value):
        yield from template["spec"]["containers"]


def find_templates(value: Any) -> Iterator[Manifest]:
    """Yield all templates of pods below a part of a manifest."""
    if isinstance(value, list):
        for each in value:
            yield from find_templates(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "template" and "containers" in each.get("spec", {}):
                yield each
            else:
                yield from find_templates(each)
