"""`source` → a local folder, or an error of one line."""

import re
from collections.abc import Collection
from pathlib import Path

from deployments.engines.model_files import PICKLES, SAFE_WEIGHTS, find_risk
from deployments.home import find_home

_OTHER_FORMATS = ("*.h5", "*.msgpack", "*.onnx", "*.gguf")
"""Files of the hub that no engine reads."""

_HUB_ID = re.compile(r"[^/@.~][^/@]*/[^/@]+(@.*)?")
"""`org/name` or `org/name@revision`; only a revision may contain more slashes."""

_COMMIT = re.compile(r"[0-9a-f]{40}")

_AFTER_SOURCE = "write the 40 hexadecimal digits of a commit after '@'"

_NO_WEIGHTS = (
    "it has no .safetensors file, and weights of another format may be pickles, which can run code "
    "when they are loaded; set 'trust: [pickles]' under args if you trust its author"
)


class EngineStartError(Exception):
    """An engine cannot start; `str()` is one line that says why."""


class SourceError(Exception):
    """A model cannot be loaded; `str()` is one line with the model, the source and the reason."""

    def __init__(self, model_id: str, source: str, reason: str) -> None:
        """Build the line from the first line of `reason`."""
        super().__init__(model_id, source, reason)
        self.reason = reason.strip().splitlines()[0] if reason.strip() else "unknown reason"
        self._line = f"model '{model_id}': source '{source}' cannot be loaded: {self.reason}"

    def __str__(self) -> str:
        """Return the line."""
        return self._line


def resolve_source(model_id: str, source: str, trust: Collection[str] = ()) -> Path:
    """Find the folder of a model; a Hugging Face id is downloaded.

    Args:
        model_id: of the model, for the error.
        source: as in the configuration.
        trust: what the configuration accepts of the model: `code`, `pickles`, `unpinned`.

    Raises:
        SourceError: there is no such folder, the download failed, or something in the model could
            run code and is not trusted.
    """
    folder = _find_folder(model_id, source)
    if folder is None and not _HUB_ID.fullmatch(source):
        raise SourceError(model_id, source, "there is no such folder")
    if folder is None:
        if problem := _find_unpinned(source, trust):
            raise SourceError(model_id, source, problem)
        folder = _download(model_id, source, trust)
    if risk := _find_risk(model_id, source, folder, trust):
        raise SourceError(model_id, source, risk)
    return folder


def find_problem(
    source: str, trust: Collection[str], how_to_pin: str = _AFTER_SOURCE
) -> str | None:
    """Say why a source would be refused, as far as this machine can know.

    A folder that is not here may be on the machine that serves.
    """
    try:
        folder = _find_folder("", source)
        if folder is not None:
            return _find_risk("", source, folder, trust)
    except SourceError:
        return None
    return _find_unpinned(source, trust, how_to_pin) if _HUB_ID.fullmatch(source) else None


def _find_unpinned(
    source: str, trust: Collection[str], how_to_pin: str = _AFTER_SOURCE
) -> str | None:
    revision = source.partition("@")[2]
    if "unpinned" in trust or _COMMIT.fullmatch(revision):
        return None
    return (
        f"'{revision or 'main'}' is no commit, and what a branch or tag names can change at any "
        f"time; {how_to_pin}, or set 'trust: [unpinned]' under args"
    )


def _find_risk(model_id: str, source: str, folder: Path, trust: Collection[str]) -> str | None:
    try:
        return find_risk(folder, trust)
    except OSError as error:
        raise SourceError(model_id, source, error.strerror or "it cannot be read") from error


def _find_folder(model_id: str, source: str) -> Path | None:
    if source.startswith("demo:"):
        return _find_demo(model_id, source)
    try:
        folder = Path(source).expanduser()
        return folder.resolve() if folder.is_dir() else None
    except (RuntimeError, ValueError):  # `~user` of an unknown user; a NUL
        return None
    except OSError as error:
        raise SourceError(model_id, source, error.strerror or "it cannot be read") from error


def _find_demo(model_id: str, source: str) -> Path:
    name = source.removeprefix("demo:")
    models = find_home() / "models"
    folder = models / name
    if not name.isidentifier() or not folder.is_dir():
        raise SourceError(model_id, source, "it has not been prepared; run ./scripts/setup")
    return folder


def _download(model_id: str, source: str, trust: Collection[str]) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = source.partition("@")
    pickles = [] if "pickles" in trust else [f"*{ending}" for ending in sorted(PICKLES)]
    code = [] if "code" in trust else ["*.py"]
    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            ignore_patterns=[*_OTHER_FORMATS, *pickles, *code],
        )
    except Exception as error:  # the hub client raises dozens of classes; all mean the same here
        reason = f"it is not a folder, and Hugging Face did not provide it ({type(error).__name__})"
        raise SourceError(model_id, source, reason) from error
    if "pickles" not in trust and not any(Path(folder).rglob(f"*{SAFE_WEIGHTS}")):
        raise SourceError(model_id, source, _NO_WEIGHTS)
    return Path(folder)
