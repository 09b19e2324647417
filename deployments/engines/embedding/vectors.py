"""An encoder's vectors: shortened where the model allows it, normalized, or compared."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from api.errors import InvalidRequestError, UnsupportedParameterError
from api.ports.embeddings import Embeddings
from api.ports.stream import Usage

if TYPE_CHECKING:
    import numpy as np

MatryoshkaDimensions = Literal["any"] | tuple[int, ...] | None
"""Sizes that vectors may be shortened to; None: no others than their own."""


def find_matryoshka_dimensions(
    configured: MatryoshkaDimensions, folder: str
) -> MatryoshkaDimensions:
    """Return the configured sizes, else those of the model's `config.json`.

    Source: vLLM 0.32 config/model.py, `is_matryoshka` and `matryoshka_dimensions`.
    """
    if configured is not None:
        return configured
    config = read_config(folder)
    if sizes := config.get("matryoshka_dimensions"):
        return tuple(int(size) for size in sizes)
    return "any" if config.get("is_matryoshka") else None


def read_config(folder: str) -> Mapping[str, Any]:
    """Read a model's `config.json`; empty if there is none."""
    path = Path(folder) / "config.json"
    config: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return config


class EmbeddingSpec:
    """Size of a model's vectors, the sizes that they may be shortened to, and their norm."""

    def __init__(
        self, size: int, matryoshka_dimensions: MatryoshkaDimensions, is_normalized: bool
    ) -> None:
        """Describe vectors of `size` dimensions."""
        self.size = size
        self.matryoshka_dimensions = matryoshka_dimensions
        self.is_normalized = is_normalized

    @property
    def capabilities(self) -> dict[str, Any]:
        """Members of the model card."""
        sizes = self.matryoshka_dimensions
        return {
            "dimensions": self.size,
            "shorter_dimensions": list(sizes) if isinstance(sizes, tuple) else sizes or [],
            "is_normalized": self.is_normalized,
        }

    def check(self, dimensions: int | None) -> None:
        """Check the size that a request asks for.

        Raises:
            InvalidRequestError: the vectors can be shortened, but not to this size.
            UnsupportedParameterError: the vectors cannot be shortened.
        """
        if dimensions in (None, self.size):
            return
        sizes = self.matryoshka_dimensions
        if sizes is None:
            raise UnsupportedParameterError(
                f"This model's vectors have {self.size} dimensions and cannot be shortened.",
                param="dimensions",
            )
        if dimensions > self.size or (sizes != "any" and dimensions not in sizes):
            valid = (
                f"from 1 to {self.size}"
                if sizes == "any"
                else f"one of {', '.join(map(str, sorted({*sizes, self.size})))}"
            )
            raise InvalidRequestError.value(
                "dimensions", f"{dimensions}; for this model it is {valid}"
            )

    def to_embeddings(
        self, vectors: "np.ndarray", dimensions: int | None, usage: Usage
    ) -> Embeddings:
        """Build the response.

        Args:
            vectors: (N, size) float32.
            dimensions: how many of each vector's dimensions to keep; None keeps all.
            usage: of the request.
        """
        if dimensions is not None and dimensions < vectors.shape[1]:
            vectors = vectors[:, :dimensions]  # (N, dimensions) float32
            if self.is_normalized:
                vectors = normalize(vectors)
        return Embeddings(vectors.astype("<f4", copy=False).tobytes(), vectors.shape[1], usage)


def normalize(vectors: "np.ndarray") -> "np.ndarray":
    """Scale rows to length 1: (N, D) float32 → (N, D) float32. Zero rows stay zero."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # (N, 1) float32
    normalized: np.ndarray = vectors / np.maximum(lengths, 1e-12)
    return normalized  # (N, D) float32, rows L2-normalised


def to_cosines(vectors: "np.ndarray", queries: int) -> tuple[float, ...]:
    """Compute the cosine similarity of each document and its query.

    Args:
        vectors: (queries + documents, D) float32: the queries' rows, then the documents'.
        queries: 1, for a query that all documents share, or as many as there are documents.

    Returns:
        One cosine per document.
    """
    rows = normalize(vectors)
    cosines: list[float] = (rows[:queries] * rows[queries:]).sum(axis=1).tolist()
    return tuple(cosines)
