import json
from pathlib import Path

import numpy as np
import pytest

from api.errors import ApiError, InvalidRequestError, UnsupportedParameterError
from api.ports.stream import Usage
from deployments.engines.embedding.vectors import (
    EmbeddingSpec,
    MatryoshkaDimensions,
    find_matryoshka_dimensions,
    normalize,
    to_cosines,
)

ROWS = np.array([[3.0, 4.0, 12.0], [0.0, 0.0, 1.0]], np.float32)


@pytest.mark.parametrize(
    ("allowed", "dimensions"),
    [(None, None), (None, 3), ("any", 1), ("any", 3), ((2,), 2), ((2,), 3)],
)
def test_allowed_dimensions_are_accepted(
    allowed: MatryoshkaDimensions, dimensions: int | None
) -> None:
    EmbeddingSpec(3, allowed, is_normalized=True).check(dimensions)


@pytest.mark.parametrize(
    ("allowed", "dimensions", "kind"),
    [
        (None, 2, UnsupportedParameterError),
        (None, 4, UnsupportedParameterError),
        ("any", 4, InvalidRequestError),
        ((2,), 1, InvalidRequestError),
        ((2,), 4, InvalidRequestError),
    ],
)
def test_other_dimensions_are_refused(
    allowed: MatryoshkaDimensions, dimensions: int, kind: type[ApiError]
) -> None:
    with pytest.raises(kind) as caught:
        EmbeddingSpec(3, allowed, is_normalized=True).check(dimensions)

    assert caught.value.param == "dimensions"


def test_shortened_vectors_are_normalized_again() -> None:
    spec = EmbeddingSpec(3, "any", is_normalized=True)

    embeddings = spec.to_embeddings(ROWS, 2, Usage(1))

    rows = np.frombuffer(embeddings.vectors, "<f4").reshape(-1, embeddings.dimensions)
    assert rows == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]), abs=1e-7)


def test_shortened_vectors_of_an_unnormalized_model_keep_their_norm() -> None:
    spec = EmbeddingSpec(3, "any", is_normalized=False)

    embeddings = spec.to_embeddings(ROWS, 2, Usage(1))

    assert np.frombuffer(embeddings.vectors, "<f4").tolist() == [3.0, 4.0, 0.0, 0.0]


@pytest.mark.parametrize("dimensions", [None, 3])
def test_whole_vectors_are_unchanged(dimensions: int | None) -> None:
    embeddings = EmbeddingSpec(3, "any", True).to_embeddings(ROWS, dimensions, Usage(1))

    assert embeddings.vectors == ROWS.tobytes()


@pytest.mark.parametrize(
    ("configured", "config", "allowed"),
    [
        (None, {}, None),
        (None, {"is_matryoshka": True}, "any"),
        (None, {"is_matryoshka": True, "matryoshka_dimensions": [64, 32]}, (64, 32)),
        ("any", {}, "any"),
        ((8,), {"is_matryoshka": True}, (8,)),
    ],
)
def test_allowed_dimensions_are_the_configured_or_the_model_s(
    tmp_path: Path,
    configured: MatryoshkaDimensions,
    config: dict[str, object],
    allowed: MatryoshkaDimensions,
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert find_matryoshka_dimensions(configured, str(tmp_path)) == allowed


def test_model_without_a_config_allows_no_dimensions(tmp_path: Path) -> None:
    assert find_matryoshka_dimensions(None, str(tmp_path)) is None


def test_normalized_rows_have_length_one_and_zero_rows_stay_zero() -> None:
    rows = normalize(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))

    assert rows.dtype == np.float32
    assert rows == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]), abs=1e-7)


def test_cosines_of_one_query_with_all_documents() -> None:
    rows = np.array([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], np.float32)

    assert to_cosines(rows, 1) == pytest.approx((1.0, 0.0, -1.0), abs=1e-6)


def test_cosines_of_pairs() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], np.float32)

    assert to_cosines(rows, 2) == pytest.approx((1.0, 0.0), abs=1e-6)


def test_capabilities_describe_the_vectors() -> None:
    assert EmbeddingSpec(3, (2,), True).capabilities == {
        "dimensions": 3,
        "shorter_dimensions": [2],
        "is_normalized": True,
    }
