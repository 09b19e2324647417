"""Measures the demo's text-to-image model on prompts held out from its training.

    .venv/bin/python scripts/demo/check_diffusion.py              100 prompts; exit 1 below the bar
    .venv/bin/python scripts/demo/check_diffusion.py --self-test  the same on true drawings

Each image is judged by its pixels alone: the background is the median colour of the border, a
thing is a connected region that stands out from it by more than half of its own contrast, and its
shape is the template that overlaps it most once both fill their bounding boxes. A missing
thing is wrong in every respect, with an overlap of 0. A poor outline has a nearest template too, so
the mean overlap (intersection over union with the true template) is reported beside it.
"""

import argparse
import json
import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from drawings import PALETTE, SHAPES, SIZE_PX, Scene, draw, draw_mask, test_prompts
from numpy.typing import NDArray
from PIL import Image

MODEL = Path(__file__).parent / "shapes"
MIN_COLOUR, MIN_SHAPE = 0.90, 0.80
BATCH = 10
BORDER_PX = 2
FAINTEST = 45.0  # distance in RGB; the closest two colours that meet in an image are 94 apart
SMALLEST_PX = 40  # area under which a region is a speck
PLACE_PX = 8.0
GRID = 48  # side of the square in which outlines are compared
SQUARE_ENOUGH = 1.35  # the longer side over the shorter; every shape fills a square

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Region:
    """A thing as found in an image; `overlaps` is the IoU with each shape's template."""

    x: float
    y: float
    area_px: int
    colour: str
    shape: str | None
    overlaps: dict[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one image compares with its scene; the lists have an entry for each true thing."""

    colours: list[bool]
    shapes: list[bool]
    overlaps: list[float]
    places: list[bool]
    has_background: bool
    has_count: bool


def label(mask: Mask) -> list[Mask]:
    """Split a mask into its 4-connected regions, specks left out."""
    names = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(names, 1)
        spread = np.maximum.reduce(
            [names, padded[2:, 1:-1], padded[:-2, 1:-1], padded[1:-1, 2:], padded[1:-1, :-2]]
        )
        spread = np.where(mask, spread, 0)
        if (spread == names).all():
            break
        names = spread
    found, areas = np.unique(names[mask], return_counts=True)
    return [names == name for name, area in zip(found, areas, strict=True) if area >= SMALLEST_PX]


def nearest_colour(colour: NDArray[np.float64]) -> str:
    """Name the palette's colour that is closest in RGB."""
    return min(PALETTE, key=lambda name: float(np.linalg.norm(colour - PALETTE[name])))


def normalise(mask: Mask) -> Mask:
    """Stretch the mask's bounding box to the comparison grid: (GRID, GRID)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    resized = image.resize((GRID, GRID), Image.Resampling.BILINEAR, box=tuple(map(int, box)))
    return np.asarray(resized) > 127


def build_templates() -> dict[str, Mask]:
    """Draw every shape as large as fits and normalise it."""
    half = SIZE_PX / 2
    masks = {
        shape: draw_mask(shape, size_px=SIZE_PX, x=half, y=half, half=half - 2) for shape in SHAPES
    }
    return {shape: normalise(np.asarray(mask) > 127) for shape, mask in masks.items()}


def to_region(mask: Mask, pixels: NDArray[np.float64], templates: dict[str, Mask]) -> Region:
    """Read colour, shape and place from one region of an image."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    outline = normalise(mask)
    overlaps = {
        shape: float((outline & template).sum() / (outline | template).sum())
        for shape, template in templates.items()
    }
    sides = sorted((np.ptp(rows) + 1, np.ptp(columns) + 1))
    nearest = max(overlaps, key=lambda shape: overlaps[shape])
    return Region(
        x=float(columns[0] + columns[-1] + 1) / 2,
        y=float(rows[0] + rows[-1] + 1) / 2,
        area_px=int(mask.sum()),
        colour=nearest_colour(np.median(pixels[mask], axis=0)),
        shape=nearest if sides[1] <= SQUARE_ENOUGH * sides[0] else None,
        overlaps=overlaps,
    )


def read_image(image: Image.Image, templates: dict[str, Mask]) -> tuple[str, list[Region]]:
    """Name an image's background and list what stands out from it."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)  # (H, W, 3)
    inner = np.zeros(pixels.shape[:2], dtype=bool)
    inner[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    background = np.median(pixels[~inner], axis=0)
    distance = np.linalg.norm(pixels - background, axis=2)
    regions = []
    for rough in label(distance > FAINTEST):
        # Half of the contrast is the middle of the edge, wherever the blur around it ends.
        contrast = float(np.median(distance[rough]))
        regions += [
            to_region(mask, pixels, templates) for mask in label(rough & (distance > contrast / 2))
        ]
    return nearest_colour(background), regions


def judge(image: Image.Image, scene: Scene, templates: dict[str, Mask]) -> Verdict:
    """Compare an image with the scene that its caption describes."""
    background, regions = read_image(image, templates)
    count = len(scene.things)
    largest = sorted(regions, key=lambda region: -region.area_px)[:count]
    largest.sort(key=lambda region: region.y if scene.layout == "stacked" else region.x)
    found: list[Region | None] = [*largest, *[None] * (count - len(largest))]
    colours, shapes, overlaps, places = [], [], [], []
    for thing, (x, y, _), region in zip(scene.things, scene.boxes(), found, strict=True):
        colours.append(region is not None and region.colour == thing.colour)
        shapes.append(region is not None and region.shape == thing.shape)
        overlaps.append(region.overlaps[thing.shape] if region else 0.0)
        places.append(region is not None and np.hypot(region.x - x, region.y - y) <= PLACE_PX)
    has_background = background == scene.background
    return Verdict(colours, shapes, overlaps, places, has_background, len(regions) == count)


def generate(folder: Path, captions: list[str], seed: int) -> list[Image.Image]:
    """Generate one image per caption at the model's default steps and guidance."""
    import torch  # imported here, because the self-test does not need torch
    from diffusers import StableDiffusionPipeline

    logging.disable(logging.WARNING)  # diffusers' advice about dtypes
    warnings.filterwarnings("ignore")
    defaults = json.loads((folder / "triptych.json").read_text())
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    images: list[Image.Image] = []
    for begin in range(0, len(captions), BATCH):
        batch = captions[begin : begin + BATCH]
        seeds = range(seed + begin, seed + begin + len(batch))
        images += pipeline(
            batch,
            num_inference_steps=defaults["num_inference_steps"],
            guidance_scale=defaults["guidance_scale"],
            width=defaults["width_px"],
            height=defaults["height_px"],
            generator=[torch.Generator().manual_seed(number) for number in seeds],
        ).images
    return images


def mean(values: list[bool] | list[float]) -> float:
    """Average, or not a number for an empty list (a table's row without images)."""
    return float(np.mean(values)) if values else float("nan")


def summarise(name: str, verdicts: list[Verdict]) -> tuple[float, float]:
    """Print one line of the table; return the shares of right colours and right shapes."""
    colour = mean([right for verdict in verdicts for right in verdict.colours])
    shape = mean([right for verdict in verdicts for right in verdict.shapes])
    overlap = mean([value for verdict in verdicts for value in verdict.overlaps])
    place = mean([right for verdict in verdicts for right in verdict.places])
    background = mean([verdict.has_background for verdict in verdicts])
    count = mean([verdict.has_count for verdict in verdicts])
    figures = (colour, shape, overlap, place, background, count)
    print(f"{name:12}{len(verdicts):9}" + "".join(f"{figure:12.3f}" for figure in figures))
    return colour, shape


def report(verdicts: list[Verdict]) -> bool:
    """Print the table, and return whether the bar is passed."""
    titles = ("colour", "shape", "overlap", "place", "background", "count")
    print(f"{'':12}{'images':>9}" + "".join(f"{title:>12}" for title in titles))
    for name, count in (("one thing", 1), ("two things", 2)):
        summarise(name, [verdict for verdict in verdicts if len(verdict.colours) == count])
    colour, shape = summarise("all", verdicts)
    return colour >= MIN_COLOUR and shape >= MIN_SHAPE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="the model's folder")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the noise; the prompts are fixed")
    parser.add_argument("--self-test", action="store_true", help="judge true drawings instead")
    options = parser.parse_args()
    cases = test_prompts(options.prompts)
    if options.self_test:
        rng = Random(options.seed)
        images = [draw(scene, rng) for _, scene in cases]
    else:
        images = generate(options.model, [caption for caption, _ in cases], options.seed)
    templates = build_templates()
    scenes = [scene for _, scene in cases]
    passed = report([judge(i, s, templates) for i, s in zip(images, scenes, strict=True)])
    print("passed" if passed else f"below the bar: colour {MIN_COLOUR}, shape {MIN_SHAPE}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
