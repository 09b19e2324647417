import pytest
from pydantic import ValidationError

from api.schema.common import MAX_TEXTS
from api.settings import Limits


def test_body_limit_is_8_mib_unless_configured() -> None:
    assert Limits().max_body_bytes == 8 * 1024 * 1024


def test_unknown_limit_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_bodies"):
        Limits(max_bodies=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", sorted(Limits.model_fields))
@pytest.mark.parametrize("value", [0, -1])
def test_limit_must_be_positive(name: str, value: int) -> None:
    with pytest.raises(ValidationError, match=name):
        Limits(**{name: value})


@pytest.mark.parametrize("name", sorted(Limits.model_fields))
def test_every_limit_is_described(name: str) -> None:
    assert Limits.model_fields[name].description


def test_limits_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Limits().max_images = 3  # type: ignore[misc]


def test_limit_of_inputs_is_at_most_that_of_the_schema() -> None:
    assert Limits(max_embedding_inputs=MAX_TEXTS).max_embedding_inputs == MAX_TEXTS
    with pytest.raises(ValidationError, match="max_embedding_inputs"):
        Limits(max_embedding_inputs=MAX_TEXTS + 1)
