"""Prompt lengths with the tokenizers of Flux, SD3 and Z-Image."""

from typing import Any

import pytest

from api.errors import InvalidRequestError
from api.ports.images import ImageRequest
from tests.helpers.tiny_pipelines import CLIP_TOKENS, T5_TOKENS

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("words", ["a" * (CLIP_TOKENS + 5), "b " * (T5_TOKENS // 2 - 2)])
async def test_prompt_may_be_as_long_as_the_longest_encoder_reads(model: Any, words: str) -> None:
    images = await model.engine.generate(
        ImageRequest("r", words, width_px=16, height_px=16, seed=1)
    )

    assert images.usage.prompt_tokens > CLIP_TOKENS


@pytest.mark.parametrize("param", ["prompt", "negative_prompt"])
async def test_longer_prompt_is_refused(model: Any, param: str) -> None:
    texts = {"prompt": "a red circle", param: "a" * 512}

    with pytest.raises(InvalidRequestError, match=f"at most ({T5_TOKENS}|512)") as failure:
        await model.engine.generate(ImageRequest("r", **texts))

    assert failure.value.param == param


async def test_template_around_a_prompt_counts_too(z_image: Any) -> None:
    engine = z_image.engine

    images = await engine.generate(ImageRequest("r", "a" * 511, width_px=16, height_px=16))

    assert images.usage.prompt_tokens == 512
    with pytest.raises(
        InvalidRequestError, match="has 513 tokens, and this model reads at most 512"
    ):
        await engine.generate(ImageRequest("r", "a" * 512))
