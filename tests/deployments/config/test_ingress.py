import pytest
from pydantic import ValidationError

from deployments.config.ingress import IngressArgs


def test_authentication_is_required_by_default() -> None:
    assert IngressArgs().auth.required


@pytest.mark.parametrize("name", ["prompt_log", "image_store"])
def test_nothing_is_kept_by_default(name: str) -> None:
    assert getattr(IngressArgs(), name) is None


@pytest.mark.parametrize("name", ["prompt_log", "image_store"])
def test_store_needs_a_folder(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name}.folder"):
        IngressArgs.model_validate({name: {"folder": ""}})
