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
from deployments.engines.sources import SourceError
from tests.helpers.tiny_loras import write_lora

pytestmark = pytest.mark.e2e

MODEL = Path(__file__).resolve().parents[4] / "scripts" / "demo" / "shapes"
PROMPT = "a red circle on a white background"
INK, OIL, WORDS = Lora("ink-1.5"), Lora("oil", 0.5), Lora("words")


def load(loras: dict[str, LoraArgs], dtype: str = "float32") -> DiffusersEngine:
    options = DiffusionOptions(
        dtype=dtype,
        num_inference_steps=4,
        guidance_scale=3.0,
        batch_window_ms=50,
        loras=loras,
        pack_weights=False,  # as with adapters: the last bits are the same only then
    )
    return DiffusersEngine(str(MODEL), options, "shapes")


@pytest.fixture(scope="module")
def bare() -> Iterator[DiffusersEngine]:
    engine = load({})
    yield engine
    engine.shut_down()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiffusersEngine]:
    folder = tmp_path_factory.mktemp("loras")
    write_lora(folder / "oil", MODEL, 3, name="other.safetensors")
    engine = load(
        {
            "ink-1.5": LoraArgs(source=write_lora(folder / "ink", MODEL, 1)),
            "oil": LoraArgs(
                source=write_lora(folder / "oil", MODEL, 2, name="oil.safetensors"),
                file="oil.safetensors",
            ),
            "words": LoraArgs(source=write_lora(folder / "words", MODEL, 4, text=True)),
        }
    )
    yield engine
    engine.shut_down()


async def draw(engine: DiffusersEngine, *loras: Lora, seed: int = 1) -> np.ndarray:
    images = await engine.generate(ImageRequest("r", PROMPT, seed=seed, loras=loras))
    with Image.open(io.BytesIO(images.images[0].data)) as picture:
        return np.asarray(picture, dtype=float)  # (H, W, 3)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


async def test_image_without_adapters_is_that_of_a_model_without_any(
    engine: DiffusersEngine, bare: DiffusersEngine
) -> None:
    expected = await draw(bare)
    before = await draw(engine)
    await draw(engine, INK, WORDS)
    after = await draw(engine)

    assert np.array_equal(before, expected)
    assert np.array_equal(after, expected)


async def test_every_adapter_and_its_scale_change_the_image(engine: DiffusersEngine) -> None:
    images = [
        await draw(engine),
        await draw(engine, INK),
        await draw(engine, Lora(INK.name, 0.5)),
        await draw(engine, OIL),
        await draw(engine, WORDS),
        await draw(engine, INK, OIL),
    ]

    for number, image in enumerate(images):
        assert all(difference(image, other) > 1.0 for other in images[:number])


async def test_scale_of_zero_is_no_adapter(engine: DiffusersEngine) -> None:
    assert difference(await draw(engine, Lora(INK.name, 0.0)), await draw(engine)) < 1.0


async def test_images_are_the_same_in_any_company(engine: DiffusersEngine) -> None:
    wanted = [(), (INK,), (OIL,), (INK, OIL), (OIL, INK), (INK,), (WORDS,), ()]
    alone = [await draw(engine, *loras, seed=seed) for seed, loras in enumerate(wanted)]

    together = await asyncio.gather(
        *(draw(engine, *loras, seed=seed) for seed, loras in enumerate(wanted))
    )

    assert max(map(difference, alone, together)) < 1.0


async def test_switching_adapters_leaves_nothing_behind(engine: DiffusersEngine) -> None:
    import torch

    async def count_tensors() -> int:
        for number in range(2):
            await draw(engine, Lora(INK.name, number / 10))
            await draw(engine, INK, Lora(OIL.name, number / 10))
            await draw(engine)
        gc.collect()
        return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())

    before = await count_tensors()

    assert await count_tensors() <= before


async def test_file_says_which_adapters_made_it(engine: DiffusersEngine) -> None:
    images = await engine.generate(ImageRequest("r", PROMPT, loras=(OIL, INK)))

    with Image.open(io.BytesIO(images.images[0].data)) as picture:
        said = json.loads(picture.info["triptych"])
    assert said["loras"] == {"ink-1.5": 1.0, "oil": 0.5}


async def test_model_tells_its_adapters(engine: DiffusersEngine, bare: DiffusersEngine) -> None:
    assert engine.capabilities["loras"] == ["ink-1.5", "oil", "words"]
    assert bare.capabilities["loras"] == []


async def test_unknown_adapter_is_refused_before_its_turn(engine: DiffusersEngine) -> None:
    with pytest.raises(InvalidRequestError) as failure:
        await draw(engine, INK, Lora("../ink"))

    assert failure.value.param == "loras[1].name"
    assert "one of: ink-1.5, oil, words" in failure.value.message


def test_adapter_of_a_model_without_any_is_refused() -> None:
    with pytest.raises(UnsupportedParameterError) as failure:
        check_loras([INK], [])

    assert failure.value.param == "loras"


async def test_adapter_takes_the_precision_of_the_model(tmp_path: Path) -> None:
    source = write_lora(tmp_path, MODEL, 1)

    engine = load({"ink": LoraArgs(source=source)}, "bfloat16")

    unet = engine._pipelines.base.unet
    assert {str(weights.dtype) for weights in unet.parameters()} == {"torch.bfloat16"}
    assert any("lora" in name for name, _ in unet.named_parameters())
    engine.shut_down()


@pytest.mark.parametrize(
    ("files", "file", "reason"),
    [
        ([], None, "no .safetensors file"),
        (["a.safetensors", "b.safetensors"], None, "several"),
        (["a.safetensors"], "b.safetensors", "no .safetensors file 'b.safetensors'"),
        (["a.bin"], "a.bin", "no .safetensors file 'a.bin'"),
        (["a.safetensors"], None, "nothing in it fits this model"),
    ],
)
def test_adapter_that_cannot_be_loaded_says_why(
    tmp_path: Path, files: list[str], file: str | None, reason: str
) -> None:
    import torch
    from safetensors.torch import save_file

    for name in files:
        save_file({"transformer.x.lora_A.weight": torch.zeros(1, 1)}, tmp_path / name)

    with pytest.raises(SourceError, match=reason):
        load({"ink": LoraArgs(source=str(tmp_path), file=file)})


def test_adapters_and_compile_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="compile does not go together with loras"):
        DiffusionOptions(compile=True, loras={"ink": LoraArgs(source="org/ink")})
