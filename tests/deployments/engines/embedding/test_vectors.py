import json
from pathlib import Path

import numpy as np
import pytest

from api.errors import ApiError, InvalidRequestError, UnsupportedParameterError
from api.ports.stream import Usage
from deployments.engines.embedding.vectors import Allowed, EmbeddingSpec, find_allowed, to_cosines

ROWS = np.array([[3.0, 4.0, 12.0], [0.0, 0.0, 1.0]], np.float32)


@pytest.mark.parametrize(
    ("allowed", "dimensions"),
    [(None, None), (None, 3), ("any", 1), ("any", 3), ((2,), 2), ((2,), 3)],
)
def test_allowed_dimensions(allowed: Allowed, dimensions: int | None) -> None:
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
    allowed: Allowed, dimensions: int, kind: type[ApiError]
) -> None:
    with pytest.raises(kind) as caught:
        EmbeddingSpec(3, allowed, is_normalized=True).check(dimensions)

    assert caught.value.param == "dimensions"


def test_shortened_vectors_have_length_one_again() -> None:
    form = EmbeddingSpec(3, "any", is_normalized=True)

    embeddings = form.to_embeddings(ROWS, 2, Usage(1))

    rows = np.frombuffer(embeddings.vectors, "<f4").reshape(-1, embeddings.dimensions)
    assert rows == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]), abs=1e-7)


def test_vectors_that_have_no_length_one_keep_theirs() -> None:
    form = EmbeddingSpec(3, "any", is_normalized=False)

    embeddings = form.to_embeddings(ROWS, 2, Usage(1))

    assert np.frombuffer(embeddings.vectors, "<f4").tolist() == [3.0, 4.0, 0.0, 0.0]


@pytest.mark.parametrize("dimensions", [None, 3])
def test_whole_vectors_are_untouched(dimensions: int | None) -> None:
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
def test_what_a_model_allows(
    tmp_path: Path, configured: Allowed, config: dict[str, object], allowed: Allowed
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert find_allowed(configured, str(tmp_path)) == allowed


def test_model_without_a_configuration_allows_nothing(tmp_path: Path) -> None:
    assert find_allowed(None, str(tmp_path)) is None


def test_cosines_of_one_query_with_all() -> None:
    rows = np.array([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], np.float32)

    assert to_cosines(rows, 1) == pytest.approx((1.0, 0.0, -1.0), abs=1e-6)


def test_cosines_of_pairs() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], np.float32)

    assert to_cosines(rows, 2) == pytest.approx((1.0, 0.0), abs=1e-6)


def test_card_tells_the_form() -> None:
    assert EmbeddingSpec(3, (2,), True).capabilities == {
        "dimensions": 3,
        "shorter_dimensions": [2],
        "is_normalized": True,
    }
