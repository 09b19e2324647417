import asyncio
import io
import struct
from typing import Any

import pytest
from PIL import Image as PillowImage
from pydantic import ValidationError

from api.errors import EngineError, ReplicaLostError
from api.ports.embeddings import EmbeddingRequest, ScoreRequest
from api.ports.images import ImageRequest
from api.ports.stream import ImageProgress, TextDelta
from api.ports.text import Conversation, Generation, Message, Prompt, Sampling
from deployments.engines.fakes import FakeDiffusionEngine, FakeEmbeddingEngine, FakeLlmEngine
from deployments.engines.protocol import RequestProgress

FAST = {"tokens_per_s": 1e6}


class StartedProgress(RequestProgress):
    def __init__(self) -> None:
        super().__init__()
        self.has_begun = asyncio.Event()

    async def begin(self, tokens: int, size: int = 1) -> None:
        self.has_begun.set()


def generation(*prompts: Prompt, **sampling: Any) -> Generation:
    return Generation("r", prompts, Sampling(**sampling))


def image_request(**members: Any) -> ImageRequest:
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

    assert completion.choices == (TextDelta(0, text, "stop"),)
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (tokens, tokens)


async def test_llm_repeats_the_prompt_up_to_max_tokens() -> None:
    completion = await FakeLlmEngine(FAST).generate(generation("a b", max_tokens=5))

    assert completion.choices == (TextDelta(0, "a b a b a", "length"),)
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


async def test_llm_emits_one_delta_per_word() -> None:
    deltas: list[TextDelta] = []

    completion = await FakeLlmEngine(FAST).generate(generation("a b c"), deltas.append)

    assert deltas == [
        TextDelta(0, "a"),
        TextDelta(0, " b"),
        TextDelta(0, " c"),
        TextDelta(0, "", "stop"),
    ]
    assert completion.choices == ()
    assert completion.usage.completion_tokens == 3


@pytest.mark.parametrize("n", [1, 3])
async def test_llm_fails_after_the_configured_token(n: int) -> None:
    engine = FakeLlmEngine({**FAST, "fail_after_tokens": 2})
    deltas: list[TextDelta] = []

    with pytest.raises(EngineError):
        await engine.generate(generation("a b c", n=n), deltas.append)

    assert [delta.text for delta in deltas if delta.index == 0] == ["a", " b"]
    assert engine.unfinished_requests == 0


async def test_llm_can_fail_before_the_first_token() -> None:
    with pytest.raises(EngineError):
        await FakeLlmEngine({**FAST, "fail_after_tokens": 0}).generate(generation("a"))


async def test_cancelled_llm_request_stops_and_counts_as_aborted() -> None:
    engine = FakeLlmEngine({"tokens_per_s": 0.01})
    progress = StartedProgress()
    running = asyncio.create_task(engine.generate(generation("a b", n=2), progress=progress))
    await progress.has_begun.wait()
    unfinished = engine.unfinished_requests

    running.cancel()
    await asyncio.wait({running})

    assert running.cancelled()
    assert unfinished == 1
    assert (engine.unfinished_requests, engine.aborted) == (0, 1)


async def test_finished_llm_request_does_not_count_as_aborted() -> None:
    engine = FakeLlmEngine(FAST)

    await engine.generate(generation("a"))

    assert (engine.unfinished_requests, engine.aborted) == (0, 0)


@pytest.mark.parametrize("options", [{"colour": 1}, {"tokens_per_s": 0}, {"workers": -1}])
def test_llm_rejects_invalid_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FakeLlmEngine(options)


class StubWorkers:
    def __init__(self, count: int) -> None:
        self.places = [{"node": "a", "gpus": [str(index)]} for index in range(count)]
        self.is_lost = self.is_shut_down = False

    def check(self) -> None:
        if self.is_lost:
            raise ReplicaLostError("lost")

    def shut_down(self) -> None:
        self.is_shut_down = True


async def test_llm_with_workers_is_as_healthy_as_they_are() -> None:
    started: list[StubWorkers] = []

    def start(count: int) -> StubWorkers:
        started.append(StubWorkers(count))
        return started[0]

    engine = FakeLlmEngine({**FAST, "workers": 2}, start)
    (workers,) = started
    await engine.check_health()
    workers.is_lost = True

    with pytest.raises(ReplicaLostError):
        await engine.check_health()
    engine.shut_down()
    assert workers.is_shut_down
    assert engine.capabilities["workers"] == workers.places


async def test_llm_without_workers_starts_none() -> None:
    engine = FakeLlmEngine(FAST, StubWorkers)

    await engine.check_health()
    engine.shut_down()
    assert "workers" not in engine.capabilities


async def test_encoder_returns_one_vector_per_input() -> None:
    embeddings = await FakeEmbeddingEngine().embed(EmbeddingRequest("r", ("a b", (1, 2, 3))))

    assert len(embeddings.vectors) == 2 * embeddings.dimensions * 4
    assert embeddings.usage.prompt_tokens == 5


async def test_encoder_scores_documents_by_words_shared_with_the_query() -> None:
    request = ScoreRequest("r", ("a b",), ("a c", "a", "d"), ("query", "documents"))

    scores = await FakeEmbeddingEngine().score(request)

    assert (scores.scores, scores.usage.prompt_tokens) == ((0.5, 1.0, 0.0), 6)


async def test_encoder_returns_equal_vectors_for_equal_inputs_only() -> None:
    embeddings = await FakeEmbeddingEngine().embed(EmbeddingRequest("r", ("a", "b", "a")))

    first, second, third = struct.iter_unpack(f"<{embeddings.dimensions}f", embeddings.vectors)
    assert first == third != second


async def test_diffusion_generates_pngs_of_the_requested_size() -> None:
    images = await FakeDiffusionEngine().generate(image_request(width_px=32, height_px=16))

    with PillowImage.open(io.BytesIO(images.images[0].data)) as image:
        image.load()
        assert (image.size, image.mode, image.format) == ((32, 16), "RGB", "PNG")
    assert (images.width_px, images.height_px) == (32, 16)


async def test_diffusion_generates_n_images_with_reproducible_seeds() -> None:
    engine = FakeDiffusionEngine()

    images = await engine.generate(image_request(n=2, seed=5))
    again = await engine.generate(image_request(seed=images.images[1].seed))

    assert [image.seed for image in images.images] == [5, 6]
    assert images.images[0].data != images.images[1].data
    assert again.images[0] == images.images[1]
    assert (images.usage.prompt_tokens, images.usage.completion_tokens) == (3, 2)


async def test_diffusion_emits_each_step_and_the_requested_previews() -> None:
    pieces: list[ImageProgress] = []

    images = await FakeDiffusionEngine().generate(
        image_request(num_inference_steps=3, previews=1), emit=pieces.append
    )

    assert pieces == [
        ImageProgress(1, 3, images.images[0].data),
        ImageProgress(2, 3),
        ImageProgress(3, 3),
    ]


async def test_fakes_are_healthy_and_shut_down() -> None:
    llm, encoder, diffusion = FakeLlmEngine({}), FakeEmbeddingEngine(), FakeDiffusionEngine()

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
async def test_completion_has_max_tokens_or_the_default(sampling: Sampling, text: str) -> None:
    completion = await FakeLlmEngine({}).generate(Generation("r", ("a b",), sampling))

    assert completion.choices[0].text == text


async def test_llm_with_an_adapter_repeats_the_prompt_in_capitals() -> None:
    engine = FakeLlmEngine({})
    adapter = await engine.load_adapter("loud", 1, "/")

    completion = await engine.generate(Generation("r", ("a b",), Sampling()), None, adapter)

    assert completion.choices[0].text == "A B"
