from typing import Any

from deployments.check.vllm_options import find_vllm_options
from tests.helpers.spoilt_config import EMBEDDING, LLM, problems, put


def test_options_are_those_of_the_installed_vllm() -> None:
    assert {"max_model_len", "dtype", "enforce_eager"} <= (find_vllm_options() or set())


def test_option_that_vllm_does_not_have_is_one_line() -> None:
    change = put("applications", LLM, "args", "engine", "max_model_length", 1)

    assert problems(change) == [
        "applications[1].args.engine.max_model_length: vLLM has no such option"
    ]


def test_option_that_vllm_does_not_have_is_one_line_for_an_encoder() -> None:
    def change(config: Any) -> None:
        args = config["applications"][EMBEDDING]["args"]
        args |= {"runner": "vllm", "vllm": {"max_model_length": 1}}

    assert problems(change) == [
        "applications[2].args.vllm.max_model_length: vLLM has no such option"
    ]


def test_options_of_the_fake_engine_are_not_checked_against_vllm() -> None:
    def change(config: Any) -> None:
        config["applications"][LLM]["args"].update(source="fake:", engine={"tokens_per_s": 10})

    assert problems(change) == []
