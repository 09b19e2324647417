"""Beyond the shipped configuration: LoRA adapters, image inputs, reasoning, a prompt log."""

import asyncio
import base64
import io
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from deployments.home import find_home
from tests.helpers.service import Service, running, wait_until
from tests.helpers.tiny_models import make_adapter, make_vision_model

pytestmark = pytest.mark.e2e

BASE, VISION = "smollm2", "vision"
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
ENGINE = {
    "max_model_len": 1024,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 1024,
    "kv_cache_memory_bytes": 268_435_456,
    "distributed_executor_backend": "uni",
    "enforce_eager": True,
}
ACTOR = {
    "num_cpus": 0.1,
    "runtime_env": {
        "env_vars": {
            "OMP_NUM_THREADS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "TORCH_COMPILE_DISABLE": "1",
        }
    },
}


def application(name: str, **args: Any) -> dict[str, Any]:
    return {
        "name": name,
        "route_prefix": None,
        "import_path": "deployments.app:llm",
        "args": {"id": name, **args},
        "deployments": [{"name": "LLM", "ray_actor_options": ACTOR}],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    """The demo LLM with a listed adapter and one in a watched folder; a tiny vision model."""
    home = folder / "home"
    home.mkdir()
    (home / "models").symlink_to(find_home() / "models")
    make_adapter(folder / "one", 1)
    make_adapter(folder / "adapters" / "two", 2)
    make_vision_model(folder / "vision")
    ingress = {
        "name": "ingress",
        "route_prefix": "/",
        "import_path": "deployments.app:ingress",
        "args": {
            "policy": {"parameters": "lenient"},
            "prompt_log": {"folder": str(folder / "prompts")},
        },
        "deployments": [{"name": "Ingress", "ray_actor_options": {"num_cpus": 0.1}}],
    }
    base = application(
        BASE,
        source="demo:smollm2",
        adapters=[{"id": "one", "source": str(folder / "one")}],
        adapters_dir=str(folder / "adapters"),
        default_max_tokens=12,
        stream_usage="last_chunk",
        engine=ENGINE,
    )
    vision = application(
        VISION, source=str(folder / "vision"), engine={**ENGINE, "reasoning_parser": "deepseek_r1"}
    )
    with running({"applications": [ingress, base, vision]}, home) as service:
        yield service


def ask(service: Service, model: str, content: Any = QUESTION, **members: Any) -> Any:
    messages = content if content is QUESTION else [{"role": "user", "content": content}]
    return service.openai().chat.completions.create(
        model=model, messages=messages, temperature=0, **members
    )


def text_of(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def test_adapters_are_listed_with_their_base_model(service: Service):
    cards = {card.id: card.model_dump() for card in service.openai().models.list()}

    assert list(cards) == [BASE, "one", "two", VISION]
    assert [cards[name].get("parent") for name in cards] == [None, BASE, BASE, None]
    assert service.openai().models.retrieve(f"{BASE}:two").id == "two"


async def test_concurrent_requests_use_their_own_adapter(service: Service):
    names = [BASE, "one", "two"] * 4
    answers = await asyncio.gather(*(asyncio.to_thread(ask, service, name) for name in names))
    texts = [text_of(answer) for answer in answers]

    assert texts == texts[:3] * 4
    assert len(set(texts)) == 3
    assert "Paris" in texts[0]
    assert [answer.usage.completion_tokens <= 12 for answer in answers] == [True] * 12


def test_all_spellings_select_the_same_adapter(service: Service):
    by_name = text_of(ask(service, "one"))

    assert text_of(ask(service, f"{BASE}:one")) == by_name
    assert text_of(ask(service, BASE, extra_body={"peft": "one"})) == by_name


def test_new_adapter_is_found_and_a_broken_one_fails_alone(service: Service, folder: Path):
    make_adapter(folder / "three", 3)
    shutil.move(folder / "three", folder / "adapters" / "three")
    (folder / "adapters" / "zero").mkdir()
    (folder / "adapters" / "zero" / "adapter_config.json").write_text("{}")
    listed = service.openai().models.list
    wait_until(lambda: {"three", "zero"} <= {card.id for card in listed()}, timeout_s=10)

    assert text_of(ask(service, "three")) not in (
        text_of(ask(service, "one")),
        text_of(ask(service, BASE)),
    )
    with pytest.raises(openai.InternalServerError, match="adapter could not be loaded"):
        ask(service, "zero")
    assert "Paris" in text_of(ask(service, BASE))


@pytest.mark.parametrize(
    "model", ["unknown", f"{BASE}:unknown", f"{BASE}:../../etc", f"{VISION}:one"]
)
def test_unknown_adapter_is_not_found(service: Service, model: str):
    with pytest.raises(openai.NotFoundError):
        ask(service, model)


def test_stream_reports_usage_on_its_last_chunk(service: Service):
    chunks = list(ask(service, BASE, stream=True, stream_options={"include_usage": True}))

    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).endswith("Paris.")


def test_prompts_are_logged_only_if_the_request_allows_it(service: Service, folder: Path):
    ask(service, BASE, "a secret of mine", max_tokens=1)
    ask(service, BASE, "a word for the log", max_tokens=1, extra_body={"log_prompt": True})

    def lines() -> list[str]:
        files = (folder / "prompts").glob("*.jsonl")
        return [line for file in files for line in file.read_text().splitlines()]

    wait_until(lambda: len(lines()) > 0, timeout_s=5)
    (record,) = [json.loads(line) for line in lines()]
    assert record["request"]["messages"][0]["content"] == "a word for the log"


def test_lenient_policy_ignores_and_lists_unknown_parameters(service: Service):
    client = service.openai().chat.completions.with_raw_response
    raw = client.create(
        model=BASE,
        messages=QUESTION,
        max_tokens=1,
        extra_body={"colour": "red", "guided_json": {}, "verbosity": "low"},
    )

    assert set(raw.headers["x-ignored-parameters"].split(", ")) == {
        "colour",
        "guided_json",
        "verbosity",
    }


def image(colour: str, kind: str = "PNG", side_px: int = 64) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (side_px, side_px), colour).save(file, kind)
    return part(file.getvalue(), kind)


def part(data: bytes, kind: str = "PNG") -> dict[str, Any]:
    text = base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind.lower()};base64,{text}"}}


def describe(service: Service, *parts: Any) -> str:
    """The vision model's output, reasoning included."""
    answer = ask(service, VISION, list(parts), max_tokens=6)
    message = answer.choices[0].message
    return str(message.model_extra.get("reasoning", "")) + str(message.content or "")


WHAT_IS_IT = {"type": "text", "text": "What is it?"}


def test_different_images_lead_to_different_answers(service: Service):
    answers = {describe(service, WHAT_IS_IT, image(colour)) for colour in ("red", "blue", "green")}

    assert len(answers) == 3
    assert describe(service, WHAT_IS_IT, image("red")) == describe(
        service, WHAT_IS_IT, image("red")
    )
    assert describe(service, image("red", "JPEG"), WHAT_IS_IT, image("blue", "WEBP"))


def test_vision_model_answers_text_alone(service: Service):
    assert describe(service, WHAT_IS_IT)


def to_huge_png() -> bytes:
    """50,000 × 50,000 pixels of one bit, in a few hundred kilobytes."""
    header = (50_000).to_bytes(4) * 2 + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(6_251) * 50_000)
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    body = [
        len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/a.png"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@"}},
        part(b"GIF89a"),
        part(b"\x89PNG\r\n\x1a\ntruncated"),
        part(b"\x89PNG\r\n\x1a\n"),
        image("red", side_px=1),
        part(to_huge_png()),
    ],
    ids=["http", "https", "file", "base64", "gif", "truncated", "empty", "tiny", "huge"],
)
def test_invalid_image_is_refused(service: Service, bad: Any):
    with pytest.raises(openai.BadRequestError) as caught:
        describe(service, WHAT_IS_IT, bad)

    assert caught.value.code == "invalid_image_url"
    assert "0x" not in str(caught.value)
    assert describe(service, WHAT_IS_IT)


def test_more_images_than_the_limit_are_refused(service: Service):
    with pytest.raises(openai.BadRequestError, match="limit of 8"):
        describe(service, *[image("red")] * 9)


def test_text_model_refuses_images(service: Service):
    with pytest.raises(openai.BadRequestError, match="reads text only"):
        ask(service, BASE, [WHAT_IS_IT, image("red")])


def test_reasoning_is_separated_from_the_answer_and_counted(service: Service):
    """The tiny model never ends its reasoning."""
    whole = ask(service, VISION, max_tokens=8)
    chunks = list(ask(service, VISION, max_tokens=8, stream=True))
    reasoning = [chunk.choices[0].delta.model_extra.get("reasoning", "") for chunk in chunks]

    assert whole.choices[0].message.content in (None, "")
    assert whole.choices[0].message.model_extra["reasoning"] == "".join(reasoning) != ""
    assert whole.usage.completion_tokens_details.reasoning_tokens > 0
