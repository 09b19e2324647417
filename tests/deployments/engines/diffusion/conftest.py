"""Tiny models of the flow-matching families, loaded once for all tests of this folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.diffusers_engine import DiffusersEngine
from deployments.engines.diffusion.pipelines import Pipelines
from tests.helpers.tiny_pipelines import write_flux, write_sd3, write_z_image

OPTIONS = DiffusionOptions(
    dtype="float32",
    num_inference_steps=4,
    guidance_scale=3.0,
    size_multiple_px=2,
    batch_window_ms=50,
    schedulers=("FlowMatchLCMScheduler",),
)


@dataclass
class FlowModel:
    """One model, and the engine around it."""

    pipelines: Pipelines
    engine: DiffusersEngine


def load(write: Callable[[Path], str], factory: pytest.TempPathFactory) -> Iterator[FlowModel]:
    pipelines = Pipelines(write(factory.mktemp("model")), OPTIONS)
    engine = DiffusersEngine(pipelines, OPTIONS, "tiny")
    yield FlowModel(pipelines, engine)
    engine.shut_down()


@pytest.fixture(scope="session")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowModel]:
    yield from load(write_flux, tmp_path_factory)


@pytest.fixture(scope="session")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowModel]:
    yield from load(write_sd3, tmp_path_factory)


@pytest.fixture(scope="session")
def z_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowModel]:
    yield from load(write_z_image, tmp_path_factory)


@pytest.fixture(params=["flux", "sd3", "z_image"])
def model(request: pytest.FixtureRequest) -> FlowModel:
    """One after another, every family."""
    model: FlowModel = request.getfixturevalue(request.param)
    return model
