"""Drawings of coloured shapes with captions: the only data the demo model learns from.

A `Scene` is the ground truth; `draw` renders it, and `describe` captions it. The caption nearly
determines the image: things are large, sit in the centre unless the caption says otherwise, and
jitter by a pixel. Some colour-shape pairs and some colour-shape-background triples are held
out: `sample_scene` never returns them, and every test prompt contains at least one of them.
"""

import math
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

SIZE_PX = 96
SUPERSAMPLE = 3

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "orange": (255, 140, 0),
    "yellow": (255, 225, 40),
    "green": (20, 150, 60),
    "blue": (30, 70, 220),
    "purple": (130, 40, 170),
    "pink": (255, 130, 190),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
    "grey": (140, 140, 140),
}
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white")
BACKGROUNDS = ("white", "black", "grey", "yellow", "green", "blue", "red", "pink")
SHAPES = ("circle", "square", "triangle", "cross", "ring", "star")
SIZES = {"small": 18.0, "medium": 27.0, "large": 37.0}  # half the side of the bounding box, px
PAIR_HALF_PX = 20.0
PAIR_REACH_PX = 23.0
OFFSETS = {
    "centre": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
ARRANGEMENTS = ("side by side", "stacked")  # of two objects; the first is the left or the upper one
LAYOUTS = (*OFFSETS, *ARRANGEMENTS)

HELD_OUT_PAIRS = frozenset(
    [
        ("purple", "star"),
        ("orange", "circle"),
        ("pink", "cross"),
        ("green", "ring"),
        ("black", "triangle"),
        ("white", "square"),
    ]
)


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of an image."""

    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What an image shows: one or two things, where, how large, and on which background."""

    things: tuple[Thing, ...]
    layout: str
    size: str
    background: str

    def boxes(self) -> list[tuple[float, float, float]]:
        """Place each thing, without jitter: centre x, centre y and half side in px."""
        middle = SIZE_PX / 2
        if self.layout == "side by side":
            near, far = middle - PAIR_REACH_PX, middle + PAIR_REACH_PX
            return [(near, middle, PAIR_HALF_PX), (far, middle, PAIR_HALF_PX)]
        if self.layout == "stacked":
            near, far = middle - PAIR_REACH_PX, middle + PAIR_REACH_PX
            return [(middle, near, PAIR_HALF_PX), (middle, far, PAIR_HALF_PX)]
        half = SIZES[self.size]
        reach = middle - half - 3  # a margin, so that jitter keeps the outline in the image
        across, down = OFFSETS[self.layout]
        return [(middle + across * reach, middle + down * reach, half)]


def is_held_out(thing: Thing, background: str) -> bool:
    """Whether training never shows this thing on this background."""
    if (thing.colour, thing.shape) in HELD_OUT_PAIRS:
        return True
    code = (
        3 * COLOURS.index(thing.colour)
        + 2 * SHAPES.index(thing.shape)
        + BACKGROUNDS.index(background)
    )
    return code % 9 == 5


def _any_scene(rng: Random) -> Scene:
    # White, which captions may omit, is twice as frequent.
    background = rng.choice(("white", *BACKGROUNDS))
    colours = [colour for colour in COLOURS if colour != background]
    count = 2 if rng.random() < 0.5 else 1
    things = tuple(Thing(rng.choice(colours), rng.choice(SHAPES)) for _ in range(count))
    if count == 2:
        return Scene(things, rng.choice(ARRANGEMENTS), "medium", background)
    layout = "centre" if rng.random() < 0.5 else rng.choice(tuple(OFFSETS))
    sizes = ("small", "medium", "medium", "large") if layout == "centre" else ("small", "medium")
    return Scene(things, layout, rng.choice(sizes), background)


def sample_scene(rng: Random) -> Scene:
    """Sample a training scene, without held-out things."""
    while True:
        scene = _any_scene(rng)
        if not any(is_held_out(thing, scene.background) for thing in scene.things):
            return scene


def sample_held_out_scene(rng: Random, count: int) -> Scene:
    """Sample a scene of `count` things, at least one of them held out from training."""
    while True:
        scene = _any_scene(rng)
        if len(scene.things) == count and any(
            is_held_out(thing, scene.background) for thing in scene.things
        ):
            return scene


def _regular(points: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
    """List a star's corners, the top one first, stretched to fill the box from -1 to 1."""
    corners = []
    for i in range(points):
        angle = 2 * math.pi * i / points
        radius = radii[i % len(radii)]
        corners.append((radius * math.sin(angle), -radius * math.cos(angle)))
    low = [min(corner[axis] for corner in corners) for axis in (0, 1)]
    high = [max(corner[axis] for corner in corners) for axis in (0, 1)]
    return [
        (2 * (x - low[0]) / (high[0] - low[0]) - 1, 2 * (y - low[1]) / (high[1] - low[1]) - 1)
        for x, y in corners
    ]


_ARM = 0.36  # half the width of a cross's arm
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0, -1), (1, 1), (-1, 1)],
    "star": _regular(10, (1.0, 0.42)),
    "cross": [
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ],
}  # fmt: skip
RING_HOLE = 0.52  # the hole's radius, as a share of the ring's


def draw_mask(shape: str, *, size_px: int, x: float, y: float, half: float) -> Image.Image:
    """Draw one shape in white on black: centre (x, y) and half side in px, anti-aliased."""
    scale = SUPERSAMPLE
    mask = Image.new("L", (size_px * scale, size_px * scale))
    pen = ImageDraw.Draw(mask)

    def ellipse(radius: float, fill: int) -> None:
        box = [
            (x - radius) * scale,
            (y - radius) * scale,
            (x + radius) * scale,
            (y + radius) * scale,
        ]
        pen.ellipse(box, fill=fill)

    if shape in OUTLINES:
        pen.polygon(
            [((x + half * u) * scale, (y + half * v) * scale) for u, v in OUTLINES[shape]], fill=255
        )
    else:
        ellipse(half, 255)
        if shape == "ring":
            ellipse(half * RING_HOLE, 0)
    return mask.reduce(scale)


def draw(scene: Scene, rng: Random | None = None) -> Image.Image:
    """Render a scene, SIZE_PX square, RGB; with `rng`, position and size jitter by a pixel."""
    image = Image.new("RGB", (SIZE_PX, SIZE_PX), PALETTE[scene.background])
    for thing, (x, y, half) in zip(scene.things, scene.boxes(), strict=True):
        if rng is not None:
            x, y = x + rng.uniform(-1, 1), y + rng.uniform(-1, 1)
            half += rng.uniform(-1, 1)
        mask = draw_mask(thing.shape, size_px=SIZE_PX, x=x, y=y, half=half)
        image.paste(PALETTE[thing.colour], mask=mask)
    return image


_SYNONYMS = {
    "circle": ("circle", "circle", "disc", "disk", "dot"),
    "square": ("square",),
    "triangle": ("triangle",),
    "cross": ("cross", "cross", "plus sign"),
    "ring": ("ring", "ring", "hoop"),
    "star": ("star",),
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big", "huge"),
    "grey": ("grey", "gray"),
    "purple": ("purple", "purple", "violet"),
    "centre": ("in the centre", "in the center", "in the middle"),
}
_OPENINGS = (
    "a photo of",
    "a picture of",
    "a drawing of",
    "an image of",
    "an illustration of",
    "a painting of",
)
_PRAISE = ("simple", "nice", "beautiful", "bright", "flat", "clean")
# The words between two things, and whether the second thing is named first.
_BETWEEN: dict[str, tuple[tuple[str, bool], ...]] = {
    "side by side": (
        ("{} and {}", False),
        ("{} and {}", False),
        ("{} and {} side by side", False),
        ("{} next to {}", False),
        ("{} beside {}", False),
        ("{} to the left of {}", False),
        ("{} left of {}", False),
        ("{} to the right of {}", True),
    ),
    "stacked": (
        ("{} above {}", False),
        ("{} above {}", False),
        ("{} over {}", False),
        ("{} on top of {}", False),
        ("{} below {}", True),
        ("{} under {}", True),
    ),
}


def _word(name: str, rng: Random) -> str:
    return rng.choice(_SYNONYMS.get(name, (name,)))


def _noun(thing: Thing, size: str, rng: Random, *, article: bool) -> str:
    words = [_word(thing.colour, rng), _word(thing.shape, rng)]
    if size != "medium":
        words.insert(0, _word(size, rng))
    if rng.random() < 0.06:
        words.insert(0, rng.choice(_PRAISE))
    if article:
        lead = "the" if rng.random() < 0.05 else "an" if words[0][0] in "aeiou" else "a"
        words.insert(0, lead)
    return " ".join(words)


def _place(layout: str, rng: Random) -> str:
    if layout == "centre":
        return f" {_word('centre', rng)}" if rng.random() < 0.15 else ""
    if " " in layout:
        return rng.choice((f" in the {layout} corner", f" in the {layout}", f" at the {layout}"))
    if layout in ("left", "right"):
        return rng.choice((f" on the {layout}", f" at the {layout}", f" on the {layout} side"))
    return rng.choice((f" at the {layout}", f" on the {layout}"))


def _backdrop(background: str, rng: Random) -> str:
    if background == "white" and rng.random() < 0.25:
        return ""
    name = _word(background, rng)
    forms: tuple[str, ...] = (f" on a {name} background",) * 4
    forms += (
        f" on {name}",
        f", {name} background",
        f" with a {name} background",
        f" against a {name} background",
    )
    return rng.choice(forms)


def describe(scene: Scene, rng: Random) -> str:
    """Caption a scene, in one of many phrasings."""
    article = rng.random() < 0.85
    nouns = [_noun(thing, scene.size, rng, article=article) for thing in scene.things]
    if len(nouns) == 1:
        subject = nouns[0] + _place(scene.layout, rng)
    else:
        form, is_reversed = rng.choice(_BETWEEN[scene.layout])
        subject = form.format(*(reversed(nouns) if is_reversed else nouns))
        if form == "{} and {}" and rng.random() < 0.15:
            subject = f"two shapes: {subject}"
    if article and rng.random() < 0.25:
        subject = f"{rng.choice(_OPENINGS)} {subject}"
    return subject + _backdrop(scene.background, rng) + ("." if rng.random() < 0.08 else "")


def prompts(count: int, *, seed: int) -> list[tuple[str, Scene]]:
    """List distinct held-out captions with their scenes, alternating one thing and two things."""
    rng = Random(seed)
    found: dict[str, Scene] = {}
    while len(found) < count:
        scene = sample_held_out_scene(rng, 1 + len(found) % 2)
        found.setdefault(describe(scene, rng), scene)
    return list(found.items())


TEST_SEED = 2024
DEVELOPMENT_SEED = 7


def test_prompts(count: int = 100) -> list[tuple[str, Scene]]:
    """List the prompts of the accuracy bar, none of which was used to tune the model."""
    return prompts(count, seed=TEST_SEED)
