"""Whether images that wait for their turn make full batches."""

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from api.ports.images import ImageRequest
from api.ports.tenancy import RequestContext
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.batcher import Canvas, Event
from deployments.engines.diffusion.diffusers_engine import DiffusersEngine
from deployments.models.accounting import AccountedRequest
from deployments.models.fair_queue import FairQueue

pytestmark = pytest.mark.e2e

MODEL = Path(__file__).parents[4] / "scripts" / "demo" / "shapes"
MOST = 4
NOISE = Image.frombytes("RGB", (512, 512), os.urandom(512 * 512 * 3))
"""Takes long to be written as a PNG, one after the other."""


async def test_clients_who_come_again_fill_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    options = DiffusionOptions(dtype="float32", num_inference_steps=2, max_batch_images=MOST)
    engine = DiffusersEngine(str(MODEL), options, "shapes")
    queue = FairQueue(engine.capacity, 100)
    sizes: list[int] = []

    def draw(batch: Sequence[Canvas]) -> None:
        """As long as a batch of a GPU, whatever its size."""
        time.sleep(0.4)
        sizes.append(len(batch))
        for canvas in batch:
            canvas.tell(Event(canvas.index, 2, NOISE, is_final=True))

    async def ask(name: str) -> None:
        work = AccountedRequest(RequestContext(tenant=name), queue, None)
        try:
            await engine.generate(ImageRequest(name, "a dot", width_px=64, height_px=64), work)
        finally:
            await work.end()

    async def come_again(name: str) -> None:
        for _ in range(4):
            await ask(name)

    monkeypatch.setattr(engine._batches, "_draw", draw)
    await asyncio.gather(*(come_again(str(number)) for number in range(2 * MOST)))
    engine.shut_down()

    assert sum(sizes) == 8 * MOST
    assert len(sizes) <= 11
