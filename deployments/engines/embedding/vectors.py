"""What becomes of an encoder's vectors: shortened where the model allows it, or compared."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from api.errors import InvalidRequestError, UnsupportedParameterError
from api.ports.embeddings import Embeddings
from api.ports.stream import Usage

if TYPE_CHECKING:
    import numpy as np

Allowed = Literal["any"] | tuple[int, ...] | None


def find_allowed(configured: Allowed, folder: str) -> Allowed:
    """What vectors may be shortened to: as configured, else as the model's `config.json` says.

    Source: vLLM 0.32 config/model.py, `is_matryoshka` and `matryoshka_dimensions`.
    """
    if configured is not None:
        return configured
    config = read_config(folder)
    if sizes := config.get("matryoshka_dimensions"):
        return tuple(int(size) for size in sizes)
    return "any" if config.get("is_matryoshka") else None


def read_config(folder: str) -> Mapping[str, Any]:
    """A model's own configuration; empty if it has none."""
    path = Path(folder) / "config.json"
    config: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return config


class EmbeddingSpec:
    """How long a model's vectors are, and may be."""

    def __init__(self, size: int, allowed: Allowed, is_normalized: bool) -> None:
        """Describe vectors of `size` dimensions."""
        self.size = size
        self.allowed = allowed
        self.is_normalized = is_normalized

    @property
    def capabilities(self) -> dict[str, Any]:
        """What the card of the model tells."""
        allowed = list(self.allowed) if isinstance(self.allowed, tuple) else self.allowed
        return {
            "dimensions": self.size,
            "shorter_dimensions": allowed or [],
            "is_normalized": self.is_normalized,
        }

    def check(self, dimensions: int | None) -> None:
        """Refuse what the vectors cannot be shortened to.

        Raises:
            InvalidRequestError: there are other lengths to choose from.
            UnsupportedParameterError: there are none.
        """
        if dimensions in (None, self.size):
            return
        if self.allowed is None:
            raise UnsupportedParameterError(
                f"This model's vectors have {self.size} dimensions and cannot be shortened.",
                param="dimensions",
            )
        if dimensions > self.size or (self.allowed != "any" and dimensions not in self.allowed):
            sizes = (
                f"from 1 to {self.size}"
                if self.allowed == "any"
                else f"one of {', '.join(map(str, sorted({*self.allowed, self.size})))}"
            )
            raise InvalidRequestError(
                f"Invalid value for 'dimensions': {dimensions}; for this model it is {sizes}.",
                param="dimensions",
            )

    def to_embeddings(
        self, vectors: "np.ndarray", dimensions: int | None, usage: Usage
    ) -> Embeddings:
        """The answer to a request, from (N, D) float32."""
        if dimensions is not None and dimensions < vectors.shape[1]:
            vectors = vectors[:, :dimensions]
            if self.is_normalized:
                vectors = normalize(vectors)
        return Embeddings(vectors.astype("<f4", copy=False).tobytes(), vectors.shape[1], usage)


def normalize(vectors: "np.ndarray") -> "np.ndarray":
    """Rows of length 1; those that are zero stay so."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    normalized: np.ndarray = vectors / np.maximum(lengths, 1e-12)
    return normalized  # (N, D) float32, rows L2-normalised


def to_cosines(vectors: "np.ndarray", queries: int) -> tuple[float, ...]:
    """Similarity of the first `queries` rows, or of the only one, to each of the others."""
    rows = normalize(vectors)
    cosines: list[float] = (rows[:queries] * rows[queries:]).sum(axis=1).tolist()
    return tuple(cosines)
