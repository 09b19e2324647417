"""Fifty clients use all models at once without errors or mixed-up results.

They end with a hundred results of each kind, and after two minutes on a slow machine.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI

from tests.helpers.generated_images import decode_image
from tests.helpers.service import Service

pytestmark = pytest.mark.e2e

LLM, ENCODER, IMAGE_MODEL = "smollm2-135m-instruct", "all-minilm-l6-v2", "shapes"
CLIENTS, ENOUGH, LONGEST_S = 50, 100, 120
KINDS = ("image", "vector", "text")
SEEDS = range(6)
TEXTS = [f"Sentence number {number} is about {'the sea ' * (number % 7)}." for number in range(20)]
COLOURS = ["red", "green", "blue"]


async def draw(sdk: AsyncOpenAI, seed: int) -> np.ndarray:
    prompt = f"a {COLOURS[seed % 3]} circle on a white background"
    answer = await sdk.images.generate(model=IMAGE_MODEL, prompt=prompt, extra_body={"seed": seed})
    image = decode_image(answer.data[0].b64_json)
    return np.asarray(image.convert("RGB"), np.float32)  # (H, W, 3)


async def embed(sdk: AsyncOpenAI, text: str) -> np.ndarray:
    answer = await sdk.embeddings.create(model=ENCODER, input=text)
    return np.asarray(answer.data[0].embedding, np.float32)  # (D,)


class Client:
    """Sends random requests one after another and compares each result with the expected one.

    It counts the results in `done`, as the other clients do.
    """

    def __init__(
        self, sdk: AsyncOpenAI, images: Any, vectors: Any, number: int, done: Counter[str]
    ):
        self.sdk, self.images, self.vectors, self.done = sdk, images, vectors, done
        self.random = random.Random(number)
        self.number = number

    async def run(self, is_over: Callable[[], bool]) -> None:
        kinds = {"image": self.check_image, "vector": self.check_vector, "text": self.check_text}
        while not is_over():
            kind = self.random.choices(list(kinds), [1, 3, 2])[0]
            await kinds[kind]()
            self.done[kind] += 1

    async def check_image(self) -> None:
        seed = self.random.choice(SEEDS)
        image = await draw(self.sdk, seed)
        assert np.abs(image - self.images[seed]).mean() < 1

    async def check_vector(self) -> None:
        text = self.random.choice(TEXTS)
        vector = await embed(self.sdk, text)
        assert vector @ self.vectors[text] > 0.999

    async def check_text(self) -> None:
        prompt = f"Client {self.number} asks question {self.random.randint(1, 99999)}:"
        answer = await self.sdk.completions.create(
            model=LLM, prompt=prompt, max_tokens=12, extra_body={"echo": True}
        )
        assert answer.choices[0].text.startswith(prompt)


@pytest.mark.timeout(LONGEST_S + 180)
async def test_fifty_concurrent_clients_of_all_models_get_correct_results(service: Service):
    sdk = AsyncOpenAI(
        base_url=f"{service.url}/v1", api_key=service.key, max_retries=0, timeout=LONGEST_S
    )
    images = {seed: await draw(sdk, seed) for seed in SEEDS}
    vectors = {text: await embed(sdk, text) for text in TEXTS}
    done: Counter[str] = Counter()
    clients = [Client(sdk, images, vectors, number, done) for number in range(CLIENTS)]
    began_s = time.monotonic()

    def is_over() -> bool:
        is_enough = all(done[kind] >= ENOUGH for kind in KINDS)
        return is_enough or time.monotonic() > began_s + LONGEST_S

    await asyncio.gather(*(client.run(is_over) for client in clients))

    print(done, f"in {time.monotonic() - began_s:.0f} s")
    assert all(done[kind] >= CLIENTS for kind in KINDS)
