"""`source` → a local folder, or an error of one line."""

import re
from pathlib import Path

from deployments.home import find_home

_UNSAFE_FILES = [
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.pkl",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.gguf",
]
"""Pickles run code when loaded, and no engine reads the other formats."""

_HUB_ID = re.compile(r"[^/@.~][^/@]*/[^/@]+(@.*)?")
"""`org/name` or `org/name@revision`; only a revision may contain more slashes."""


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


def resolve_source(model_id: str, source: str) -> Path:
    """Find the folder of a model; a Hugging Face id is downloaded.

    Raises:
        SourceError: there is no such folder, or the download failed.
    """
    if source.startswith("demo:"):
        return _find_demo(model_id, source)
    try:
        folder = Path(source).expanduser()
        if folder.is_dir():
            return folder.resolve()
    except RuntimeError:  # `~user` of an unknown user
        pass
    except OSError as error:
        raise SourceError(model_id, source, error.strerror or "it cannot be read") from error
    if not _HUB_ID.fullmatch(source):
        raise SourceError(model_id, source, "there is no such folder")
    return _download(model_id, source)


def _find_demo(model_id: str, source: str) -> Path:
    name = source.removeprefix("demo:")
    models = find_home() / "models"
    folder = models / name
    if not name.isidentifier() or not folder.is_dir():
        raise SourceError(model_id, source, "it has not been prepared; run ./scripts/setup")
    return folder


def _download(model_id: str, source: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = source.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, ignore_patterns=_UNSAFE_FILES
        )
    except Exception as error:  # the hub client raises dozens of classes; all mean the same here
        reason = f"it is not a folder, and Hugging Face did not provide it ({type(error).__name__})"
        raise SourceError(model_id, source, reason) from error
    return Path(folder)
