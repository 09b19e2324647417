from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from deployments.config.base import ModelArgs, application_name
from deployments.config.diffusion import DiffusionArgs
from deployments.config.embedding import EmbeddingArgs
from deployments.config.ingress import IngressArgs
from deployments.config.ledger import LedgerArgs
from deployments.config.llm import LlmArgs

ALL_ARGS = [IngressArgs, LlmArgs, EmbeddingArgs, DiffusionArgs]
MODEL = {"id": "m", "source": "fake:"}


@pytest.mark.parametrize(
    ("model_id", "name"),
    [
        ("shapes", "shapes"),
        ("org/model", "org--model"),
        ("all-minilm-l6-v2.5", "all-minilm-l6-v2_5"),
        ("a/b/c.d", "a--b--c_d"),
    ],
)
def test_application_name(model_id: str, name: str) -> None:
    assert application_name(model_id) == name


@pytest.mark.parametrize(
    "model_id", ["m", "org/m", "m.v1", "m:adapter", "m@main", "a+b", "x" * 128]
)
def test_model_id(model_id: str) -> None:
    assert ModelArgs(id=model_id, source="fake:").id == model_id


@pytest.mark.parametrize("model_id", ["", "a b", "a\n", "a'b", "a?b", "a#b", "x" * 129, 7])
def test_any_other_model_id_is_refused(model_id: object) -> None:
    with pytest.raises(ValidationError, match="id"):
        ModelArgs.model_validate({"id": model_id, "source": "fake:"})


@pytest.mark.parametrize("args", ALL_ARGS)
def test_unknown_key_is_refused(args: type[BaseModel]) -> None:
    with pytest.raises(ValidationError, match="colour"):
        args.model_validate({**MODEL, "colour": 1})


@pytest.mark.parametrize("args", [LlmArgs, EmbeddingArgs, DiffusionArgs])
def test_id_and_source_are_all_that_a_model_needs(args: type[ModelArgs]) -> None:
    assert args(id="m", source="fake:").id == "m"


def test_auth_is_on_unless_said_otherwise() -> None:
    assert IngressArgs().auth.required


@pytest.mark.parametrize(
    "args",
    [
        {"database": "mysql://u:opensesame@h/d"},
        {"database": "sqlite:///:memory:"},
        {"database": ""},
        {"redis": "http://u:opensesame@h"},
        {"redis": "redis://u:opensesame/more@h"},
        {"redis": ""},
        {"redis": ["redis://u:opensesame@h"]},
    ],
)
def test_ledger_without_a_store_is_refused_and_no_password_told(args: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(args))) as caught:
        LedgerArgs.model_validate(args)

    assert "opensesame" not in str(caught.value)


def test_ledger_with_stores() -> None:
    args = {"database": "postgresql://u:p@h/d", "redis": "rediss://u:p@h:1/2"}

    assert LedgerArgs.model_validate(args).model_dump(include=set(args)) == args


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"qualities": {"low": 4, "ultra": 50}}, "no request can say 'ultra', only low, medium"),
        ({"qualities": {"auto": 4}}, "no request can say 'auto'"),
        ({"min_size_px": 4096}, "min_size_px is larger than max_size_px"),
    ],
)
def test_image_model_that_no_request_fits_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        DiffusionArgs.model_validate({**MODEL, "engine": options})


def test_qualities_that_requests_can_say() -> None:
    names = ("low", "medium", "high", "xhigh", "max", "standard", "hd")

    DiffusionArgs.model_validate({**MODEL, "engine": {"qualities": dict.fromkeys(names, 4)}})


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"vllm": {"max_model_len": 64}}, "vllm takes effect with 'runner: vllm' only"),
        (
            {"runner": "vllm", "engine": {"dtype": "auto", "device": "cpu", "dimensions": "any"}},
            "these of engine have no effect: device, dtype;",
        ),
    ],
)
def test_encoder_options_without_effect_are_refused(args: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        EmbeddingArgs.model_validate({**MODEL, **args})


def test_encoder_options_that_vllm_knows_too() -> None:
    options = {"max_tokens": 9, "prompts": {"query": "q: "}, "prompt_name": "query"}

    EmbeddingArgs.model_validate({**MODEL, "runner": "vllm", "engine": options})
