from pathlib import Path
from typing import Any

import pytest

from deployments.engines.sources import EngineStartError
from deployments.engines.vllm_sources import check_vllm_options, find_vllm_problems

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def find(options: dict[str, Any], *trust: str) -> dict[str, str]:
    return dict(find_vllm_problems(options, trust))


@pytest.mark.parametrize(
    ("options", "option", "how"),
    [
        ({"tokenizer": "org/t"}, "tokenizer", "set tokenizer_revision to the 40"),
        ({"tokenizer": "org/t", "tokenizer_revision": "main"}, "tokenizer", "set tokenizer_rev"),
        ({"hf_config_path": "org/c"}, "hf_config_path", "name its folder"),
        ({"generation_config": "org/g"}, "generation_config", "name its folder"),
        (
            {"speculative_config": {"model": "org/draft"}},
            "speculative_config.model",
            "set speculative_config.revision to the 40",
        ),
    ],
)
def test_option_that_names_an_unpinned_model_is_a_problem(
    options: dict[str, Any], option: str, how: str
) -> None:
    problems = find(options)

    assert list(problems) == [option]
    assert "'main' is no commit" in problems[option]
    assert how in problems[option]
    assert find(options, "unpinned") == {}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokenizer": "org/t", "tokenizer_revision": COMMIT},
        {"tokenizer": None, "speculative_config": None},
        {"speculative_config": {"model": "org/draft", "revision": COMMIT}},
        {"speculative_config": {"method": "ngram", "model": "ngram"}},
        {"generation_config": "vllm", "load_format": "auto"},
    ],
)
def test_option_that_names_no_or_a_pinned_model_is_no_problem(options: dict[str, Any]) -> None:
    assert find(options) == {}


def test_draft_model_in_a_folder_with_code_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "modeling.py").touch()

    problems = find({"speculative_config": {"model": str(tmp_path)}})

    assert "'modeling.py' is Python code" in problems["speculative_config.model"]


@pytest.mark.parametrize("load_format", ["pt", "npcache", "PT"])
def test_load_format_of_pickles_is_a_problem_unless_they_are_trusted(load_format: str) -> None:
    assert list(find({"load_format": load_format})) == ["load_format"]
    assert find({"load_format": load_format}, "pickles") == {}


def test_engine_with_an_untrusted_option_does_not_start() -> None:
    with pytest.raises(EngineStartError, match="load_format: it loads pickles"):
        check_vllm_options({"load_format": "pt"}, ())

    check_vllm_options({"load_format": "pt"}, {"pickles"})
