"""The files in `examples/` are configurations that `scripts/check_config` accepts."""

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


def gpu_applications() -> dict[str, Any]:
    return {each["name"]: each for each in yaml.safe_load(GPU.read_text())["applications"]}


def test_gpu_example_is_among_the_examples() -> None:
    assert GPU in EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_example_is_accepted(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(example)]) == 0
    assert capsys.readouterr() == ("", "")


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
