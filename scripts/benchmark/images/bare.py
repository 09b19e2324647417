"""Runs the bare pipeline in its own process, on request.

    stdin   a line: BATCH IMAGES
    stdout  a line when loaded; then for each request the seconds that IMAGES images took

Images are generated in batches of BATCH and encoded as PNG, as the service does.

Usage: python -m scripts.benchmark.images.bare MODEL STEPS GUIDANCE
"""

import io
import sys
import time
import warnings
from typing import Any

import torch
from diffusers import AutoPipelineForText2Image

from scripts.benchmark.images.comparison import PROMPTS


def generate(pipeline: Any, seeds: list[int], steps: int, guidance: float) -> None:
    output = pipeline(
        prompt=[PROMPTS[seed % len(PROMPTS)] for seed in seeds],
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
    )
    for image in output.images:
        image.save(io.BytesIO(), format="PNG")


def main() -> None:
    warnings.simplefilter("ignore")
    model, steps, guidance = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    pipeline = AutoPipelineForText2Image.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generate(pipeline, [0], steps, guidance)
    print("ready", flush=True)
    for line in sys.stdin:
        batch, images = map(int, line.split())
        began_s = time.perf_counter()
        for first in range(0, images, batch):
            generate(pipeline, list(range(first, min(first + batch, images))), steps, guidance)
        print(time.perf_counter() - began_s, flush=True)


if __name__ == "__main__":
    main()
