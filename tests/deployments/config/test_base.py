import pytest
from pydantic import BaseModel, ValidationError

from deployments.config.base import ModelArgs, application_name
from deployments.config.diffusion import DiffusionArgs
from deployments.config.embedding import EmbeddingArgs
from deployments.config.ingress import IngressArgs
from deployments.config.ledger import LedgerArgs
from deployments.config.llm import LlmArgs


@pytest.mark.parametrize(
    ("model_id", "name"),
    [
        ("shapes", "shapes"),
        ("org/model", "org--model"),
        ("all-minilm-l6-v2.5", "all-minilm-l6-v2_5"),
        ("a/b/c.d", "a--b--c_d"),
    ],
)
def test_application_name_has_no_slash_and_no_dot(model_id: str, name: str) -> None:
    assert application_name(model_id) == name


@pytest.mark.parametrize(
    "model_id", ["m", "org/m", "m.v1", "m:adapter", "m@main", "a+b", "x" * 128]
)
def test_model_id_is_accepted(model_id: str) -> None:
    assert ModelArgs(id=model_id, source="fake:").id == model_id


@pytest.mark.parametrize("model_id", ["", "a b", "a\n", "a'b", "a?b", "a#b", "x" * 129, 7])
def test_any_other_model_id_is_refused(model_id: object) -> None:
    with pytest.raises(ValidationError, match="id"):
        ModelArgs.model_validate({"id": model_id, "source": "fake:"})


@pytest.mark.parametrize("args", [LlmArgs, EmbeddingArgs, DiffusionArgs])
def test_id_and_source_are_all_that_a_model_needs(args: type[ModelArgs]) -> None:
    assert args(id="m", source="fake:").id == "m"


@pytest.mark.parametrize("args", [LlmArgs, EmbeddingArgs, DiffusionArgs])
def test_unknown_key_of_a_model_is_refused(args: type[BaseModel]) -> None:
    with pytest.raises(ValidationError, match="colour"):
        args.model_validate({"id": "m", "source": "fake:", "colour": 1})


@pytest.mark.parametrize("args", [IngressArgs, LedgerArgs])
def test_unknown_key_of_a_service_deployment_is_refused(args: type[BaseModel]) -> None:
    with pytest.raises(ValidationError, match="colour"):
        args.model_validate({"colour": 1})


def test_nothing_of_a_model_is_trusted_by_default() -> None:
    assert ModelArgs(id="m", source="org/m").trust == frozenset()


def test_unknown_trust_is_refused() -> None:
    with pytest.raises(ValidationError, match="code"):
        ModelArgs.model_validate({"id": "m", "source": "fake:", "trust": ["everything"]})


def test_option_of_vllm_that_trust_decides_is_refused() -> None:
    options = {"id": "m", "source": "fake:", "engine": {"trust_remote_code": True}}

    with pytest.raises(ValidationError, match="trust_remote_code is decided by trust"):
        LlmArgs.model_validate(options)
