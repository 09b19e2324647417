from typing import Any

import pytest
from pydantic import ValidationError

from deployments.config.diffusion import DiffusionArgs, DiffusionOptions

MODEL = {"id": "m", "source": "fake:"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"qualities": {"low": 4, "ultra": 50}}, "no request can say 'ultra', only low, medium"),
        ({"qualities": {"auto": 4}}, "no request can say 'auto'"),
        ({"min_size_px": 4096}, "min_size_px is larger than max_size_px"),
        (
            {"compile": True, "loras": {"a": {"source": "s"}}},
            "compile does not go together with loras",
        ),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        DiffusionArgs.model_validate({**MODEL, "engine": options})


@pytest.mark.parametrize("name", ["trust_remote_code", "use_safetensors"])
def test_option_that_trust_decides_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} is decided by trust: leave it out"):
        DiffusionOptions(from_pretrained={name: True})


def test_custom_pipeline_needs_trust_in_code() -> None:
    options = {"from_pretrained": {"custom_pipeline": "org/pipeline"}}

    with pytest.raises(ValidationError, match="custom_pipeline loads Python code"):
        DiffusionArgs.model_validate({**MODEL, "engine": options})
    DiffusionArgs.model_validate({**MODEL, "engine": options, "trust": ["code"]})


@pytest.mark.parametrize("name", ["low", "medium", "high", "xhigh", "max", "standard", "hd"])
def test_steps_are_set_for_every_quality_of_a_request(name: str) -> None:
    options = DiffusionOptions(qualities={name: 4})

    assert options.find_steps(None, name) == 4


@pytest.mark.parametrize(
    ("requested", "quality", "steps"), [(7, "low", 7), (None, "low", 12), (None, "high", 30)]
)
def test_steps_are_those_requested_else_of_the_quality_else_the_default(
    requested: int | None, quality: str, steps: int
) -> None:
    options = DiffusionOptions(num_inference_steps=30, qualities={"low": 12})

    assert options.find_steps(requested, quality) == steps
