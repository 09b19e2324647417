"""What in a model's folder could run code when the model is loaded.

The engines are told to load neither code nor pickles. This check comes first, says which file is
at fault, and holds also where a library decides by what it finds in the folder.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"})
"""Endings of files that may be pickles, which run code when loaded."""

SAFE_WEIGHTS = ".safetensors"

_LIBRARIES = frozenset({"diffusers", "transformers", None})
"""Libraries that a component in `model_index.json` may come from, beside diffusers' own folders of
pipelines; others are modules of the model's folder, or packages of which we know nothing."""


def find_risk(folder: Path, trust: Collection[str]) -> str | None:
    """Say what in a folder could run code, unless `trust` has it; None if there is nothing.

    Args:
        folder: of a model or an adapter.
        trust: `code` and `pickles` accept what this function would report.

    Raises:
        OSError: a folder cannot be read.
    """
    files = sorted(_list_files(folder))
    if "code" not in trust and (risk := _find_code(folder, files)):
        return f"{risk}; remove it, or set 'trust: [code]' under args if you trust its author"
    if "pickles" not in trust and (pickle := _find_pickle(files)):
        return (
            f"'{_show(pickle, folder)}' may be a pickle, which can run code when it is loaded, and "
            "no .safetensors file is beside it; convert it, or set 'trust: [pickles]' under args "
            "if you trust its author"
        )
    return None


def _list_files(folder: Path) -> Iterator[Path]:
    """Yield all files, also those behind links: a loader follows them too."""
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()  # a link to a folder above it
            continue
        seen.add((status.st_dev, status.st_ino))
        yield from (Path(place, name) for name in names)


def _raise(error: OSError) -> None:
    raise error


def _show(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder))[-200:]


def _find_pickle(files: Iterable[Path]) -> Path | None:
    """Find a pickle that could be the weights: loaders prefer safetensors of the same folder."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        by_folder[file.parent].append(file)
    for siblings in by_folder.values():
        if any(file.suffix.lower() == SAFE_WEIGHTS for file in siblings):
            continue
        # OpenVINO's weights have the same ending, and a graph of the same name beside them.
        graphs = {file.stem for file in siblings if file.suffix.lower() == ".xml"}
        for file in siblings:
            if file.suffix.lower() in PICKLES and file.stem not in graphs:
                return file
    return None


def _find_code(folder: Path, files: Iterable[Path]) -> str | None:
    for file in files:
        if file.suffix.lower() == ".py":
            return f"'{_show(file, folder)}' is Python code"
        for find_class in _find_readers(file.name):
            foreign = find_class(_read_json(file))
            if foreign is not None:
                named = f"'{_show(file, folder)}' names '{foreign[:100]}'"
                return f"{named}, which is code from elsewhere"
    return None


def _read_json(file: Path) -> Any:
    """Read a configuration; None if it is none, of which the library will say what is wrong."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _find_foreign_module(modules: Any) -> str | None:
    """Find a module of an encoder that is none of sentence-transformers' own.

    Source: sentence-transformers 6.2 util/misc.py, `import_module_class`.
    """
    for module in modules if isinstance(modules, list) else ():
        name = module.get("type") if isinstance(module, dict) else None
        if isinstance(name, str) and not name.startswith("sentence_transformers."):
            return name
    return None


def _find_foreign_route(config: Any) -> str | None:
    types = config.get("types") if isinstance(config, dict) else None
    values = types.values() if isinstance(types, dict) else ()
    return _find_foreign_module([{"type": name} for name in values])


def _find_foreign_component(index: Any) -> str | None:
    """Find a pipeline, or a component of one, that is in none of the libraries.

    Source: diffusers 0.42 pipelines/pipeline_loading_utils.py.
    """
    for key, value in index.items() if isinstance(index, dict) else ():
        is_class = isinstance(value, list) and len(value) == 2 and isinstance(value[1], str)
        if is_class and (key == "_class_name" or not _is_known(value[0])):
            return f"{value[0]}.{value[1]}"
    return None


def _is_known(library: Any) -> bool:
    """Whether a component is one of a library's: SD 1.5 has one of diffusers' stable_diffusion."""
    if library in _LIBRARIES:
        return True
    is_name = isinstance(library, str) and library.isidentifier()
    spec = find_spec("diffusers") if is_name else None
    folders = (spec and spec.submodule_search_locations) or ()
    return any(Path(folder, "pipelines", str(library)).is_dir() for folder in folders)


def _find_hub_code(config: Any) -> str | None:
    """Find a class or a kernel that transformers would download from another repository.

    Source: transformers 5.19 dynamic_module_utils.py and integrations/hub_kernels.py.
    """
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        for key, member in value.items() if isinstance(value, dict) else ():
            mark = _HUB_MARKS.get(key)
            named = next((text for text in _texts(member) if mark and mark in text), None)
            if named is not None:
                return named
            waiting.append(member)
    return None


_HUB_MARKS = {
    "auto_map": "--",
    "attn_implementation": "/",
    "_attn_implementation": "/",
    "_attn_implementation_internal": "/",
    "experts_implementation": "/",
    "_experts_implementation": "/",
    "_experts_implementation_internal": "/",
}
"""Key → what its texts contain if they name a repository."""


def _texts(value: Any) -> Iterator[str]:
    """Yield a text, or those in a list or a mapping, or in a list in either."""
    members = list(value.values()) if isinstance(value, dict) else value
    for member in members if isinstance(members, list) else [members]:
        for text in member if isinstance(member, list) else [member]:
            if isinstance(text, str):
                yield text


def _find_readers(name: str) -> tuple[Callable[[Any], str | None], ...]:
    """Return what finds a foreign class in a file of this name."""
    if name.endswith("config.json"):
        return (_find_hub_code, *_READERS.get(name, ()))
    return _READERS.get(name, ())


_READERS: dict[str, tuple[Callable[[Any], str | None], ...]] = {
    "modules.json": (_find_foreign_module,),
    "router_config.json": (_find_foreign_route,),
    "model_index.json": (_find_foreign_component,),
}
