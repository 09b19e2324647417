"""The bare pipeline in a process of its own: draws as it is told to, line by line, on stdin.

    python -m scripts.benchmark.images.bare MODEL STEPS GUIDANCE

`BATCH IMAGES` draws so many images in batches of that size, and answers with the seconds taken.
Files are made of them as the service makes them: an image nobody can look at is none.
"""

import io
import sys
import time
import warnings
from typing import Any

import torch
from diffusers import AutoPipelineForText2Image

from scripts.benchmark.images.comparison import PROMPTS


def draw(pipeline: Any, seeds: list[int], steps: int, guidance: float) -> None:
    drawn = pipeline(
        prompt=[PROMPTS[seed % len(PROMPTS)] for seed in seeds],
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
    )
    for image in drawn.images:
        image.save(io.BytesIO(), format="PNG")


def main() -> None:
    warnings.simplefilter("ignore")
    model, steps, guidance = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    pipeline = AutoPipelineForText2Image.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    draw(pipeline, [0], steps, guidance)
    print("ready", flush=True)
    for line in sys.stdin:
        batch, images = map(int, line.split())
        began_s = time.perf_counter()
        for first in range(0, images, batch):
            draw(pipeline, list(range(first, min(first + batch, images))), steps, guidance)
        print(time.perf_counter() - began_s, flush=True)


if __name__ == "__main__":
    main()
