from pathlib import Path
from typing import Any

import pytest

from deployments.check.model_sources import source_problems
from deployments.config.base import Args
from deployments.config.diffusion import DiffusionArgs
from deployments.config.embedding import EmbeddingArgs
from deployments.config.ingress import IngressArgs
from deployments.config.llm import LlmArgs
from tests.helpers.spoilt_config import LLM, problems, put

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PINNED = {"id": "m", "source": f"org/m@{COMMIT}"}


def keys(schema: type[Args], live: Any = None, **args: Any) -> list[str]:
    """Return the keys with a problem."""
    found = source_problems(schema, {**PINNED, **args}, "args", [("live", live)] if live else [])
    return [line.partition(": ")[0] for line in found]


@pytest.mark.parametrize(
    ("schema", "args", "expected"),
    [
        (LlmArgs, {}, []),
        (LlmArgs, {"source": "org/m"}, ["args.source"]),
        (LlmArgs, {"source": "fake:"}, []),
        (EmbeddingArgs, {"source": "org/m@main"}, ["args.source"]),
        (DiffusionArgs, {"source": "org/m"}, ["args.source"]),
        (LlmArgs, {"source": "org/m", "trust": ["unpinned"]}, []),
        (
            LlmArgs,
            {"adapters": [{"id": "a", "source": "/gone"}, {"id": "b", "source": "org/b"}]},
            ["args.adapters[1].source"],
        ),
        (
            DiffusionArgs,
            {"engine": {"loras": {"ink": {"source": "org/ink"}}}},
            ["args.engine.loras.ink.source"],
        ),
        (LlmArgs, {"engine": {"tokenizer": "org/t"}}, ["args.engine.tokenizer"]),
        (LlmArgs, {"engine": {"tokenizer": "org/t"}, "source": "fake:"}, []),
        (
            EmbeddingArgs,
            {"runner": "vllm", "vllm": {"load_format": "pt"}},
            ["args.vllm.load_format"],
        ),
        (LlmArgs, {"colour": 1, "source": "org/m"}, []),
        (IngressArgs, {"id": None}, []),
    ],
)
def test_untrusted_source_is_named_by_its_key(
    schema: type[Args], args: dict[str, Any], expected: list[str]
) -> None:
    assert keys(schema, **args) == expected


def test_adapter_in_a_folder_of_adapters_is_checked(tmp_path: Path) -> None:
    for name, file in [("good", "a.safetensors"), ("bad", "a.bin"), ("no_adapter", "a.py")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    for name in ("good", "bad"):
        (tmp_path / name / "adapter_config.json").touch()

    assert keys(LlmArgs, adapters_dir=str(tmp_path)) == ["args.adapters_dir.bad"]


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        ({"adapters": [{"id": "a", "source": "org/a"}]}, ["live.adapters[0].source"]),
        ({"max_waiting": 3}, []),
        ({"colour": 3}, []),
    ],
)
def test_adapter_of_a_user_config_is_checked(live: Any, expected: list[str]) -> None:
    assert keys(LlmArgs, live, engine={"enable_lora": True}) == expected


def test_problem_of_args_is_not_repeated_for_the_user_config() -> None:
    assert keys(LlmArgs, {"max_waiting": 3}, source="org/m") == ["args.source"]


def test_check_reports_a_model_without_a_commit_by_its_path() -> None:
    found = problems(put("applications", LLM, "args", "source", "org/model"))

    assert len(found) == 1
    assert found[0].startswith("applications[1].args.source: 'main' is no commit")
