import asyncio
import io
import struct
from typing import Any

import pytest
from PIL import Image as PillowImage
from pydantic import ValidationError

from api.errors import EngineError
from api.ports.embeddings import EmbeddingRequest, ScoreRequest
from api.ports.images import ImageRequest
from api.ports.stream import Delta
from api.ports.text import Conversation, Generation, Message, Prompt, Sampling
from deployments.engines.fakes import FakeDiffusionEngine, FakeEncoderEngine, FakeLlmEngine

FAST = {"tokens_per_s": 1e6}


def generation(*prompts: Prompt, **sampling: Any) -> Generation:
    return Generation("r", prompts, Sampling(**sampling))


def drawing(**members: Any) -> ImageRequest:
    bare = dict.fromkeys(
        [
            "negative_prompt",
            "width_px",
            "height_px",
            "num_inference_steps",
            "guidance_scale",
            "seed",
        ]
    )
    return ImageRequest(**{"request_id": "r", "prompt": "a red dot", "n": 1, **bare, **members})


@pytest.mark.parametrize(
    ("prompt", "text", "tokens"),
    [
        ("one two", "one two", 2),
        ("", "…", 1),
        ((7, 8, 9), "7 8 9", 3),
        (Conversation((Message("system", "be"), Message("user", "brief now"))), "be brief now", 3),
        (Conversation((Message("user", ""),)), "…", 1),
    ],
)
async def test_llm_repeats_the_prompt(prompt: Prompt, text: str, tokens: int) -> None:
    completion = await FakeLlmEngine(FAST).generate(generation(prompt))

    assert completion.choices == (Delta(0, text, "stop"),)
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (tokens, tokens)


async def test_llm_goes_on_to_max_tokens() -> None:
    completion = await FakeLlmEngine(FAST).generate(generation("a b", max_tokens=5))

    assert completion.choices == (Delta(0, "a b a b a", "length"),)
    assert completion.usage.completion_tokens == 5


async def test_llm_numbers_choices_prompt_major() -> None:
    completion = await FakeLlmEngine(FAST).generate(generation("a", "b c", n=2))

    assert [(choice.index, choice.text) for choice in completion.choices] == [
        (0, "a"),
        (1, "a"),
        (2, "b c"),
        (3, "b c"),
    ]
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (3, 6)


async def test_llm_emits_the_same_text_piece_by_piece() -> None:
    deltas: list[Delta] = []

    completion = await FakeLlmEngine(FAST).generate(generation("a b c"), deltas.append)

    assert deltas == [Delta(0, "a"), Delta(0, " b"), Delta(0, " c"), Delta(0, "", "stop")]
    assert completion.choices == ()
    assert completion.usage.completion_tokens == 3


@pytest.mark.parametrize("n", [1, 3])
async def test_llm_fails_where_it_is_told_to(n: int) -> None:
    engine = FakeLlmEngine({**FAST, "fail_after_tokens": 2})
    deltas: list[Delta] = []

    with pytest.raises(EngineError):
        await engine.generate(generation("a b c", n=n), deltas.append)

    assert [delta.text for delta in deltas if delta.index == 0] == ["a", " b"]
    assert engine.unfinished_requests == 0


async def test_llm_may_fail_before_the_first_token() -> None:
    with pytest.raises(EngineError):
        await FakeLlmEngine({**FAST, "fail_after_tokens": 0}).generate(generation("a"))


async def test_llm_that_is_cancelled_stops_and_counts_it() -> None:
    engine = FakeLlmEngine({"tokens_per_s": 0.01})
    running = asyncio.create_task(engine.generate(generation("a b", n=2)))
    await asyncio.sleep(0.01)
    under_way = engine.unfinished_requests

    running.cancel()
    await asyncio.wait({running})

    assert running.cancelled()
    assert under_way == 1
    assert (engine.unfinished_requests, engine.aborted) == (0, 1)


async def test_llm_counts_only_what_was_cancelled_as_aborted() -> None:
    engine = FakeLlmEngine(FAST)

    await engine.generate(generation("a"))

    assert (engine.unfinished_requests, engine.aborted) == (0, 0)


@pytest.mark.parametrize("options", [{"colour": 1}, {"tokens_per_s": 0}])
def test_llm_refuses_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FakeLlmEngine(options)


async def test_encoder_gives_a_vector_for_each_input() -> None:
    embeddings = await FakeEncoderEngine().embed(EmbeddingRequest("r", ("a b", (1, 2, 3))))

    assert len(embeddings.vectors) == 2 * embeddings.dimensions * 4
    assert embeddings.usage.prompt_tokens == 5


async def test_encoder_scores_documents_by_words_that_are_the_query_s() -> None:
    request = ScoreRequest("r", ("a b",), ("a c", "a", "d"), ("query", "documents"))

    scores = await FakeEncoderEngine().score(request)

    assert (scores.scores, scores.usage.prompt_tokens) == ((0.5, 1.0, 0.0), 6)


async def test_encoder_tells_inputs_apart() -> None:
    embeddings = await FakeEncoderEngine().embed(EmbeddingRequest("r", ("a", "b", "a")))

    first, second, third = struct.iter_unpack(f"<{embeddings.dimensions}f", embeddings.vectors)
    assert first == third != second


async def test_diffusion_draws_pngs_of_the_size_asked_for() -> None:
    images = await FakeDiffusionEngine().generate(drawing(width_px=32, height_px=16))

    with PillowImage.open(io.BytesIO(images.images[0].data)) as picture:
        picture.load()
        assert (picture.size, picture.mode, picture.format) == ((32, 16), "RGB", "PNG")
    assert (images.width_px, images.height_px) == (32, 16)


async def test_diffusion_draws_n_images_with_seeds_that_make_them_again() -> None:
    engine = FakeDiffusionEngine()

    images = await engine.generate(drawing(n=2, seed=5))
    again = await engine.generate(drawing(seed=images.images[1].seed))

    assert [image.seed for image in images.images] == [5, 6]
    assert images.images[0].data != images.images[1].data
    assert again.images[0] == images.images[1]
    assert (images.usage.prompt_tokens, images.usage.completion_tokens) == (3, 2)


async def test_fakes_are_always_well_and_shut_down() -> None:
    llm, encoder, diffusion = FakeLlmEngine({}), FakeEncoderEngine(), FakeDiffusionEngine()

    await llm.check_health()
    await encoder.check_health()
    diffusion.check_health()
    llm.shut_down()
    encoder.shut_down()
    diffusion.shut_down()


@pytest.mark.parametrize(
    ("sampling", "text"),
    [
        (Sampling(), "a b"),
        (Sampling(default_max_tokens=3), "a b a"),
        (Sampling(max_tokens=1, default_max_tokens=3), "a"),
    ],
)
async def test_an_answer_is_as_long_as_asked_for_or_the_default(
    sampling: Sampling, text: str
) -> None:
    completion = await FakeLlmEngine({}).generate(Generation("r", ("a b",), sampling))

    assert completion.choices[0].text == text


async def test_an_adapter_shouts() -> None:
    engine = FakeLlmEngine({})
    adapter = await engine.load_adapter("loud", 1, "/")

    completion = await engine.generate(Generation("r", ("a b",), Sampling()), None, adapter)

    assert completion.choices[0].text == "A B"
