"""`source` → a local folder, or one line that says why there is none."""

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
"""Pickles run code when loaded, and the rest no engine here reads."""

_HUB_ID = re.compile(r"[^/@.~][^/@]*/[^/@]+(@.*)?")
"""`org/name` or `org/name@revision`; only a revision may hold more slashes."""


class SourceError(Exception):
    """A model cannot be loaded: `str()` is one line that names the model, the source and why."""

    def __init__(self, model_id: str, source: str, reason: str) -> None:
        """Word the line; only its first line is kept of a longer reason."""
        super().__init__(model_id, source, reason)
        self.reason = reason.strip().splitlines()[0] if reason.strip() else "unknown reason"
        self._line = f"model '{model_id}': source '{source}' cannot be loaded: {self.reason}"

    def __str__(self) -> str:
        """The line."""
        return self._line


def resolve_source(model_id: str, source: str) -> Path:
    """Find the folder of a model, downloading it if it is a Hugging Face id.

    Raises:
        SourceError: there is no such folder, or the hub does not give it.
    """
    if source.startswith("demo:"):
        return _find_demo(model_id, source)
    try:
        folder = Path(source).expanduser()
        if folder.is_dir():
            return folder.resolve()
    except RuntimeError:  # a home of somebody who is not there
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
    except Exception as error:  # the hub client raises dozens of kinds; all mean the same here
        reason = (
            f"it is no folder, and the Hugging Face hub does not give it ({type(error).__name__})"
        )
        raise SourceError(model_id, source, reason) from error
    return Path(folder)
