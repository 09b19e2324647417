"""The steps of every model endpoint, without HTTP; tests of each endpoint cover them over HTTP."""

import json
from typing import Any

import pytest

from api.embeddings.embeddings import prepare_embeddings
from api.embeddings.endpoint import EmbeddingDialect
from api.endpoint import Caller, Dialect, Endpoint
from api.errors import (
    EngineError,
    InvalidRequestError,
    ModelNotFoundError,
    RateLimitError,
)
from api.images.generations import GenerationDialect
from api.ports.tenancy import Key, KeyLimits
from api.schema.chat import ChatRequest
from api.schema.completions import CompletionRequest
from api.schema.embeddings import EmbeddingsRequest
from api.services import Services
from api.text.chat import prepare_chat
from api.text.completions import prepare_completion
from api.text.endpoint import TextDialect
from tests.helpers.fakes import (
    ENCODER,
    LLM,
    PAINTER,
    FakeEncoder,
    FakeLimiter,
    FakeLlm,
    FakePainter,
    build_models,
)

CALLER = Caller(
    Key("k1", "ann", "acme", models=("*",), limits=KeyLimits(requests_per_minute=9)), "req_1"
)
BODIES: dict[str, Any] = {
    "chat": {"model": LLM, "messages": [{"role": "user", "content": "Hi"}]},
    "completions": {"model": LLM, "prompt": "Hi"},
    "embeddings": {"model": ENCODER, "input": "Hi"},
    "images": {"model": PAINTER, "prompt": "a dot", "n": 2},
}
ALL = pytest.mark.parametrize("name", list(BODIES))


class Setup:
    """One endpoint over fake models, and its limiter."""

    def __init__(
        self, name: str, error: Exception | None = None, refusal: Exception | None = None
    ) -> None:
        self.limiter = FakeLimiter(refusal)
        services = Services(limiter=self.limiter)
        dialects: dict[str, Dialect[Any, Any, Any]] = {
            "chat": TextDialect("chat/completions", ChatRequest, prepare_chat, services),
            "completions": TextDialect(
                "completions", CompletionRequest, prepare_completion, services
            ),
            "embeddings": EmbeddingDialect(
                "embeddings", EmbeddingsRequest, prepare_embeddings, services
            ),
            "images": GenerationDialect(services),
        }
        models = build_models(
            FakeLlm(error=error), FakeEncoder(error=error), FakePainter(error=error)
        )
        self.endpoint = Endpoint(dialects[name], models, services)

    async def answer(self, body: Any) -> Any:
        return json.loads(await self.endpoint.answer(json.dumps(body).encode(), CALLER))


@ALL
async def test_answer_without_http_is_the_body_of_the_response(name: str) -> None:
    setup = Setup(name)

    answer = await setup.answer(BODIES[name])

    assert answer["usage"]
    assert answer.get("choices") or answer.get("data")


@ALL
async def test_answer_without_http_is_admitted_and_released(name: str) -> None:
    setup = Setup(name)
    images = BODIES[name].get("n", 0)

    await setup.answer(BODIES[name])

    assert setup.limiter.calls == [(CALLER.key, images)]
    assert setup.limiter.released == [[images]]


@ALL
async def test_failed_answer_releases_its_images(name: str) -> None:
    setup = Setup(name, error=EngineError("It broke."))

    with pytest.raises(EngineError):
        await setup.answer(BODIES[name])

    assert setup.limiter.released == [[0]]


@ALL
@pytest.mark.parametrize(
    ("change", "error"),
    [({"colour": "red"}, InvalidRequestError), ({"model": "no-such"}, ModelNotFoundError)],
)
async def test_invalid_request_is_not_admitted(
    name: str, change: Any, error: type[Exception]
) -> None:
    setup = Setup(name)

    with pytest.raises(error):
        await setup.answer({**BODIES[name], **change})

    assert setup.limiter.calls == []


@ALL
async def test_refused_admission_is_raised(name: str) -> None:
    with pytest.raises(RateLimitError):
        await Setup(name, refusal=RateLimitError("Full.")).answer(BODIES[name])
