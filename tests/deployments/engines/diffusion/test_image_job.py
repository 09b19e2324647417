from dataclasses import replace

import pytest
from PIL import Image

from deployments.engines.diffusion.batch_settings import BatchSettings
from deployments.engines.diffusion.image_job import ImageEvent, ImageJob

SETTINGS = BatchSettings("text2img", 8, 8, 4, 4, 1.0)
IMAGE = Image.new("RGB", (8, 8))


@pytest.fixture
def events() -> list[ImageEvent | BaseException]:
    return []


@pytest.fixture
def job(events: list[ImageEvent | BaseException]) -> ImageJob:
    return ImageJob(0, SETTINGS, "a dot", None, 7, wants_progress=True, emit=events.append)


def test_step_is_emitted(job: ImageJob, events: list) -> None:
    job.record_step(1)
    job.report_step()

    assert events == [ImageEvent(0, 1)]


def test_unwanted_step_is_not_emitted(job: ImageJob, events: list) -> None:
    job.wants_progress = False
    job.record_step(1)
    job.report_step()

    assert events == []


def test_preview_is_emitted_though_other_steps_are_unwanted(job: ImageJob, events: list) -> None:
    job.wants_progress, job.preview_steps = False, frozenset({2})
    wanted = []
    for step in (1, 2):
        job.record_step(step)
        wanted.append(job.wants_preview)
        job.report_step(IMAGE if job.wants_preview else None)

    assert wanted == [False, True]
    assert events == [ImageEvent(0, 2, IMAGE)]


def test_step_taken_a_second_time_is_not_emitted_again(job: ImageJob, events: list) -> None:
    job.preview_steps = frozenset({1})
    for step in (1, 2, 1, 2, 3):
        job.record_step(step)
        job.report_step(IMAGE if job.wants_preview else None)

    assert events == [ImageEvent(0, 1, IMAGE), ImageEvent(0, 2), ImageEvent(0, 3)]


def test_every_step_is_recorded_as_progress(job: ImageJob) -> None:
    steps: list[None] = []
    job.wants_progress, job.on_step = False, lambda: steps.append(None)

    job.record_step(1)
    job.record_step(2)

    assert len(steps) == 2


def test_finished_image_is_emitted_unless_the_job_is_cancelled(job: ImageJob, events: list) -> None:
    cancelled = replace(job, is_cancelled=True)

    cancelled.finish(IMAGE)
    job.finish(IMAGE)

    assert events == [ImageEvent(0, 0, IMAGE, is_final=True)]
