"""Pipelines of the demo's model: what happens when a batch does not reach its end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch  # noqa: TID253

from deployments.config.diffusion import DiffusionOptions, LoraArgs
from deployments.engines.cancellable_thread import WorkCancelledError
from deployments.engines.diffusion.batch_settings import BatchSettings
from deployments.engines.diffusion.image_job import ImageEvent, ImageJob
from deployments.engines.diffusion.pipelines import Pipelines
from tests.helpers.generated_images import SAME, difference
from tests.helpers.tiny_loras import write_lora
from tests.helpers.tiny_pipelines import SHAPES, counted_rows

pytestmark = pytest.mark.e2e

STEPS = 8
SETTINGS = BatchSettings("text2img", 96, 96, STEPS, STEPS, 3.0)
SCHEDULERS = ("DPMSolverMultistepScheduler", "LMSDiscreteScheduler")
OPTIONS = DiffusionOptions(dtype="float32", schedulers=SCHEDULERS)


@pytest.fixture(scope="module")
def pipelines() -> Pipelines:
    return Pipelines(str(SHAPES), OPTIONS)


def make_job(index: int = 0, settings: BatchSettings = SETTINGS) -> tuple[ImageJob, list[Any]]:
    """A job, and the events that it will emit."""
    events: list[Any] = []
    prompt = "a red circle on a white background"
    job = ImageJob(index, settings, prompt, None, index, wants_progress=True, emit=events.append)
    return job, events


def to_images(
    pipelines: Pipelines,
    jobs: list[tuple[ImageJob, list[Any]]],
    between_steps: Callable[[], None] = lambda: None,
) -> list[np.ndarray]:
    """Generate one batch; the images of the jobs that were not cancelled, (H, W, 3) float64."""
    pipelines.run([job for job, _ in jobs], between_steps)
    return [np.asarray(events[-1].image, dtype=float) for _, events in jobs if events]


def run(pipelines: Pipelines) -> np.ndarray:
    """Generate one image, (H, W, 3) float64."""
    job, events = make_job()
    pipelines.run([job])
    return np.asarray(events[-1].image, dtype=float)


@contextmanager
def counted_hook_calls(pipelines: Pipelines, monkeypatch: Any) -> Iterator[list[None]]:
    """Collect an item for each call that moves offloaded parts back to main memory."""
    calls: list[None] = []
    with monkeypatch.context() as patch:
        patch.setattr(pipelines.base, "maybe_free_model_hooks", lambda: calls.append(None))
        yield calls


def test_failed_batch_restores_offloaded_parts_and_the_vaes_dtype(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDXL's pipeline upcasts its VAE, and at its end moves parts back that were offloaded."""
    expected = run(pipelines)

    def fail(*_: object, **__: object) -> None:
        pipelines.base.vae.to(torch.float64)
        raise ValueError("no room")

    with monkeypatch.context() as patch, counted_hook_calls(pipelines, monkeypatch) as calls:
        patch.setattr(pipelines.base.vae, "decode", fail)
        with pytest.raises(ValueError, match="no room"):
            run(pipelines)

    assert len(calls) == 1
    assert pipelines.base.vae.dtype == torch.float32
    assert difference(run(pipelines), expected) < SAME


def test_cancelled_batch_restores_offloaded_parts(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(pipelines)
    job, events = make_job()

    def cancel(event: ImageEvent | BaseException) -> None:
        events.append(event)
        job.is_cancelled = True

    job.emit = cancel
    with (
        counted_hook_calls(pipelines, monkeypatch) as calls,
        pytest.raises(WorkCancelledError),
    ):
        pipelines.run([job])

    assert events == [ImageEvent(0, 1)]
    assert len(calls) == 1
    assert difference(run(pipelines), expected) < SAME


@pytest.mark.parametrize("scheduler", [None, *SCHEDULERS])
def test_overtaken_and_overtaking_images_are_as_if_alone(
    pipelines: Pipelines, scheduler: str | None
) -> None:
    large = replace(SETTINGS, scheduler=scheduler, width_px=128)
    small = replace(SETTINGS, scheduler=scheduler, steps=4, steps_taken=4)
    expected = [
        to_images(pipelines, [make_job(seed, each)]) for seed, each in ((0, large), (1, small))
    ]
    overtaking: list[np.ndarray] = []
    jobs, left = [make_job(0, large), make_job(2, large)], make_job(3, large)
    left[0].emit = lambda _: setattr(left[0], "is_cancelled", True)

    def overtake() -> None:
        if jobs[0][0].steps_done == 3:
            overtaking.extend(to_images(pipelines, [make_job(1, small)]))

    overtaken = to_images(pipelines, [*jobs, left], overtake)

    assert difference(overtaken[0], expected[0][0]) < SAME
    assert difference(overtaking[0], expected[1][0]) < SAME


def test_batch_is_not_overtaken_if_parts_of_the_model_are_offloaded(pipelines: Pipelines) -> None:
    pipelines._is_offloaded = True
    calls: list[None] = []
    try:
        pipelines.run([make_job()[0]], lambda: calls.append(None))
    finally:
        pipelines._is_offloaded = False

    assert calls == []


def test_batch_of_cancelled_jobs_computes_nothing(pipelines: Pipelines) -> None:
    job, _ = make_job()
    job.is_cancelled = True

    with counted_rows(pipelines) as rows, pytest.raises(WorkCancelledError):
        pipelines.run([job])

    assert rows == []


def test_memory_is_freed_before_the_batch_after_one_that_ran_out_of_it(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(None))

    def fill_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("too much")

    hook = pipelines.base.unet.register_forward_pre_hook(fill_memory, with_kwargs=True)
    with pytest.raises(torch.OutOfMemoryError):
        run(pipelines)
    hook.remove()
    freed_by_the_failed_batch = len(freed)
    run(pipelines)
    run(pipelines)

    assert (freed_by_the_failed_batch, len(freed)) == (0, 1)


def test_encode_runs_the_text_encoder(pipelines: Pipelines) -> None:
    shapes: list[torch.Size] = []
    hook = pipelines.base.text_encoder.register_forward_pre_hook(
        lambda _, inputs: shapes.append(inputs[0].shape)
    )

    pipelines.encode(torch.tensor([[0, 2]]))
    hook.remove()

    assert shapes == [(1, 2)]


def test_adapter_is_converted_to_the_models_dtype(tmp_path: Any) -> None:
    loras = {"ink": LoraArgs(source=write_lora(tmp_path, SHAPES, 1))}

    unet = Pipelines(str(SHAPES), DiffusionOptions(dtype="bfloat16", loras=loras)).base.unet

    assert {weights.dtype for weights in unet.parameters()} == {torch.bfloat16}
    assert any("lora" in name for name, _ in unet.named_parameters())
