"""The files in `examples/` are configurations that `scripts/check_config` accepts."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.check.__main__ import main
from deployments.check.configuration import find_problems
from deployments.config.diffusion import DiffusionArgs
from deployments.config.embedding import EmbeddingArgs

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
GPU = ROOT / "examples" / "gpu" / "serve_config.yaml"
LLMS = sorted((ROOT / "examples" / "gpu" / "llm").glob("*.yaml"))


def gpu_applications() -> dict[str, Any]:
    return {each["name"]: each for each in yaml.safe_load(GPU.read_text())["applications"]}


def test_gpu_example_is_among_the_examples() -> None:
    assert GPU in EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_example_is_accepted(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(example)]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("example", LLMS, ids=lambda path: path.name)
def test_example_of_a_language_model_names_its_command_and_its_limits(example: Path) -> None:
    text = example.read_text()

    assert f" {example.relative_to(ROOT)}" in text
    assert "not been run on" in text
    assert "estimates" in text


@pytest.mark.parametrize("example", LLMS, ids=lambda path: path.name)
def test_parsers_of_an_example_are_those_of_the_installed_vllm(example: Path) -> None:
    models = [
        application["args"]
        for application in yaml.safe_load(example.read_text())["applications"]
        if application["import_path"] == "deployments.app:llm"
    ]

    assert len(models) == 1
    for args in models:
        assert args.get("tool_call_parser") in {None, *vllm_parsers("tool_parsers")}
        assert args["engine"].get("reasoning_parser") in {None, *vllm_parsers("reasoning")}


def vllm_parsers(package: str) -> set[str]:
    """Read the names from vLLM's source: importing it takes seconds."""
    vllm = importlib.util.find_spec("vllm")
    if vllm is None or vllm.origin is None:
        pytest.skip("vLLM is not installed")
    source = Path(vllm.origin).with_name(package).joinpath("__init__.py").read_text()
    return set(re.findall(r'^    "([\w-]+)": \(', source, re.MULTILINE))


def test_examples_of_language_models_are_one_of_each_kind() -> None:
    assert {path.stem for path in LLMS} == {
        "qwen3-8b",
        "llama-3.3-70b-fp8",
        "two-nodes",
        "vision",
        "moe",
    }


@pytest.mark.parametrize("model", ["sdxl", "flux_1-schnell"])
def test_largest_image_of_a_model_fits_into_a_batch(model: str) -> None:
    args = DiffusionArgs(**gpu_applications()[model]["args"])

    options = args.engine
    assert options.max_pixels <= options.max_batch_pixels
    assert options.min_size_px % options.size_multiple_px == 0
    assert options.max_size_px % options.size_multiple_px == 0


def test_models_that_share_a_gpu_fit_on_it() -> None:
    shares = [
        application["deployments"][0]["ray_actor_options"]["num_gpus"]
        for application in gpu_applications().values()
        if application["import_path"] == "deployments.app:embedding"
    ]

    assert len(shares) == 4
    assert sum(shares) == pytest.approx(1.0)


def test_vllm_uses_no_more_than_its_share_of_the_gpu() -> None:
    application = gpu_applications()["qwen3-embedding"]
    args = EmbeddingArgs(**application["args"])

    share = application["deployments"][0]["ray_actor_options"]["num_gpus"]
    assert args.vllm["gpu_memory_utilization"] < share


def test_mistake_in_an_example_is_found() -> None:
    config = yaml.safe_load(GPU.read_text())
    config["applications"][2]["args"]["engine"]["colour"] = 1

    assert list(find_problems(config)) == [
        "applications[2].args.engine.colour: there is no such key"
    ]
