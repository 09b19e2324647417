"""LoRA adapters on the demo's model, in float32 on the CPU."""

import asyncio
import gc
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from api.errors import InvalidRequestError, UnsupportedParameterError
from api.ports.images import ImageRequest, Lora
from deployments.config.diffusion import DiffusionOptions, LoraArgs
from deployments.engines.diffusion.diffusers_engine import DiffusersEngine
from deployments.engines.diffusion.loras import check_loras
from deployments.engines.diffusion.pipelines import Pipelines
from deployments.engines.sources import SourceError
from tests.helpers.generated_images import SAME, difference, generate
from tests.helpers.tiny_loras import write_lora
from tests.helpers.tiny_pipelines import SHAPES

pytestmark = pytest.mark.e2e

PROMPT = "a red circle on a white background"
INK, OIL, WORDS = Lora("ink-1.5"), Lora("oil", 0.5), Lora("words")


def load(loras: dict[str, LoraArgs]) -> DiffusersEngine:
    options = DiffusionOptions(
        dtype="float32",
        num_inference_steps=4,
        guidance_scale=3.0,
        batch_window_ms=50,
        loras=loras,
        pack_weights=False,  # as with adapters, so that all bits are equal
    )
    return DiffusersEngine(Pipelines(str(SHAPES), options), options, "shapes")


@pytest.fixture(scope="module")
def plain() -> Iterator[DiffusersEngine]:
    engine = load({})
    yield engine
    engine.shut_down()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiffusersEngine]:
    folder = tmp_path_factory.mktemp("loras")
    write_lora(folder / "oil", SHAPES, 3, name="other.safetensors")
    engine = load(
        {
            "ink-1.5": LoraArgs(source=write_lora(folder / "ink", SHAPES, 1)),
            "oil": LoraArgs(
                source=write_lora(folder / "oil", SHAPES, 2, name="oil.safetensors"),
                file="oil.safetensors",
            ),
            "words": LoraArgs(source=write_lora(folder / "words", SHAPES, 4, text=True)),
        }
    )
    yield engine
    engine.shut_down()


async def generate_with(engine: DiffusersEngine, *loras: Lora, seed: int = 1) -> np.ndarray:
    return await generate(engine, ImageRequest("r", PROMPT, seed=seed, loras=loras))


async def test_image_without_adapters_is_that_of_the_plain_model(
    engine: DiffusersEngine, plain: DiffusersEngine
) -> None:
    expected = await generate_with(plain)
    before = await generate_with(engine)
    await generate_with(engine, INK, WORDS)
    after = await generate_with(engine)

    assert np.array_equal(before, expected)
    assert np.array_equal(after, expected)


async def test_each_adapter_and_scale_changes_the_image(engine: DiffusersEngine) -> None:
    images = [
        await generate_with(engine),
        await generate_with(engine, INK),
        await generate_with(engine, Lora(INK.name, 0.5)),
        await generate_with(engine, OIL),
        await generate_with(engine, WORDS),
        await generate_with(engine, INK, OIL),
    ]

    for number, image in enumerate(images):
        assert all(difference(image, other) > 1.0 for other in images[:number])


async def test_scale_of_zero_has_no_effect(engine: DiffusersEngine) -> None:
    plain, scaled = await generate_with(engine), await generate_with(engine, Lora(INK.name, 0.0))

    assert difference(plain, scaled) < SAME


async def test_image_does_not_depend_on_its_batch(engine: DiffusersEngine) -> None:
    sets = [(), (INK,), (OIL,), (INK, OIL), (OIL, INK), (INK,), (WORDS,), ()]
    alone = [await generate_with(engine, *loras, seed=seed) for seed, loras in enumerate(sets)]

    together = await asyncio.gather(
        *(generate_with(engine, *loras, seed=seed) for seed, loras in enumerate(sets))
    )

    assert max(map(difference, alone, together)) < SAME


async def test_switching_adapters_leaks_no_tensors(engine: DiffusersEngine) -> None:
    import torch

    async def count_tensors() -> int:
        for number in range(2):
            await generate_with(engine, Lora(INK.name, number / 10))
            await generate_with(engine, INK, Lora(OIL.name, number / 10))
            await generate_with(engine)
        gc.collect()
        return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())

    before = await count_tensors()

    assert await count_tensors() <= before


async def test_png_stores_its_adapters(engine: DiffusersEngine) -> None:
    images = await engine.generate(ImageRequest("r", PROMPT, loras=(OIL, INK)))

    with Image.open(io.BytesIO(images.images[0].data)) as image:
        provenance = json.loads(image.info["triptych"])
    assert provenance["loras"] == {"ink-1.5": 1.0, "oil": 0.5}


def test_capabilities_list_the_adapters(engine: DiffusersEngine, plain: DiffusersEngine) -> None:
    assert engine.capabilities["loras"] == ["ink-1.5", "oil", "words"]
    assert plain.capabilities["loras"] == []


async def test_unknown_adapter_is_refused_before_its_turn(engine: DiffusersEngine) -> None:
    with pytest.raises(InvalidRequestError) as failure:
        await generate_with(engine, INK, Lora("../ink"))

    assert failure.value.param == "loras[1].name"
    assert "one of: ink-1.5, oil, words" in failure.value.message


def test_adapter_is_refused_by_a_model_without_adapters() -> None:
    with pytest.raises(UnsupportedParameterError) as failure:
        check_loras([INK], [])

    assert failure.value.param == "loras"


@pytest.mark.parametrize(
    ("files", "file", "reason"),
    [
        ([], None, "no .safetensors file"),
        (["a.safetensors", "b.safetensors"], None, "several"),
        (["a.safetensors"], "b.safetensors", "no .safetensors file 'b.safetensors'"),
        (["a.bin"], "a.bin", "'a.bin' may be a pickle"),
        (["a.bin", "b.safetensors"], "a.bin", "no .safetensors file 'a.bin'"),
        (["a.safetensors"], None, "nothing in it fits this model"),
    ],
)
def test_adapter_that_cannot_be_loaded_is_refused_with_the_reason(
    tmp_path: Path, files: list[str], file: str | None, reason: str
) -> None:
    import torch
    from safetensors.torch import save_file

    for name in files:
        save_file({"transformer.x.lora_A.weight": torch.zeros(1, 1)}, tmp_path / name)

    with pytest.raises(SourceError, match=reason):
        load({"ink": LoraArgs(source=str(tmp_path), file=file)})


def test_compile_with_adapters_is_refused() -> None:
    with pytest.raises(ValueError, match="compile does not go together with loras"):
        DiffusionOptions(compile=True, loras={"ink": LoraArgs(source="org/ink")})
