"""Tiny models of the flow-matching families, loaded once; and a batcher around a fake pipeline."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.batcher import ImageBatcher
from deployments.engines.diffusion.diffusers_engine import DiffusersEngine
from deployments.engines.diffusion.pipelines import Pipelines
from deployments.engines.stall_watch import StallWatch
from tests.helpers.image_batches import Clock, FakePipeline
from tests.helpers.tiny_pipelines import write_flux, write_sd3, write_z_image

OPTIONS = DiffusionOptions(
    max_pixel_steps=10**9,
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


@pytest.fixture
def pipeline() -> FakePipeline:
    return FakePipeline()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stall_watch(clock: Clock) -> StallWatch:
    return StallWatch(10.0, clock)


@pytest.fixture
async def batcher(pipeline: FakePipeline, stall_watch: StallWatch) -> AsyncIterator[ImageBatcher]:
    batcher = ImageBatcher(pipeline.run, 4, 8 * 8 * 4, 0.02, stall_watch)
    yield batcher
    pipeline.go.release(50)
    batcher.shut_down()
