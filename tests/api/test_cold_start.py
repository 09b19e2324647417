"""Requests for models that have no replica yet, over fake models."""

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from starlette.applications import Starlette

from api.app import create_app
from api.cold_start import ColdStartWait
from api.errors import ModelFailedError
from api.registry import ModelEntry, Models, Registry, State
from api.services import Services
from api.settings import ColdStart
from tests.helpers.asgi import Response, post, request
from tests.helpers.fakes import LLM, FakeLlm
from tests.helpers.service import sse_events

PATH = "/v1/completions"
BODY: dict[str, Any] = {"model": LLM, "prompt": "Once"}
STREAMED = {**BODY, "stream": True}
UNLOADED = pytest.mark.parametrize("state", ["starting", "idle"])
QUICK = ColdStart(stream_wait_s=0.05, whole_wait_s=0.05, comment_interval_s=0.01)


class Setup:
    """An LLM that is not loaded, and whose requests wait until `load`."""

    def __init__(
        self, state: State, cold_start: ColdStart = QUICK, llm: FakeLlm | None = None, **entry: Any
    ) -> None:
        self.llm = llm or FakeLlm(held=True)
        self._entry = ModelEntry(LLM, "llm", state, self.llm, 0, **entry)
        self.models = Models(Registry([self._entry]))
        self.app: Starlette = create_app(self.models, None, Services(cold_start=cold_start))

    def load(self) -> None:
        self.models.swap(Registry([replace(self._entry, state="ready")]))


def events_of(response: Response) -> list[str]:
    """The payloads of a stream, without its comments."""
    return list(sse_events(iter(response.body.decode().splitlines())))


@UNLOADED
async def test_waiting_stream_gets_headers_at_once_and_comments_until_the_first_delta(
    state: State,
) -> None:
    setup = Setup(state, ColdStart(comment_interval_s=0.01))
    async with post(setup.app, PATH, STREAMED) as exchange:
        await exchange.sent(4)  # the start, and three comments
        waiting = b"".join(exchange.response.chunks)
        setup.load()
        setup.llm.gate.release(10)
        response = await exchange.end()

    assert waiting == b": the model is being loaded\n\n" * 3
    assert events_of(response)[-1] == "[DONE]"
    assert response.chunks[-1].startswith(b"data: ")


@UNLOADED
async def test_stream_gives_up_with_an_error_event(state: State) -> None:
    setup = Setup(state)

    response = await request(setup.app, "POST", PATH, json_body=STREAMED)

    assert response.status == 200
    (event,) = events_of(response)
    assert json.loads(event)["error"]["code"] == "model_starting"
    assert setup.llm.streams[0].is_closed


@UNLOADED
async def test_whole_answer_gives_up_with_503(state: State) -> None:
    setup = Setup(state)

    response = await request(setup.app, "POST", PATH, json_body=BODY)

    assert response.error() == (503, "model_starting", None)
    assert response.headers["retry-after"] == "5"
    assert setup.llm.cancelled == 1


@pytest.mark.parametrize("body", [BODY, STREAMED], ids=["whole", "stream"])
async def test_request_goes_on_if_its_model_was_loaded_in_time(body: Any) -> None:
    setup = Setup("starting")
    async with post(setup.app, PATH, body) as exchange:
        await setup.llm.gate.waiting.wait()
        setup.load()
        await asyncio.sleep(0.1)  # longer than it may wait
        setup.llm.gate.release(10)
        response = await exchange.end()

    assert response.status == 200


async def test_whole_answer_comes_when_the_model_is_loaded() -> None:
    setup = Setup("idle", ColdStart())
    async with post(setup.app, PATH, BODY) as exchange:
        await setup.llm.gate.waiting.wait()
        setup.llm.gate.release(10)
        response = await exchange.end()

    assert response.status == 200


async def test_without_a_wait_requests_are_refused_at_once() -> None:
    setup = Setup("starting", ColdStart(stream_wait_s=0, whole_wait_s=0))

    for body in (BODY, STREAMED):
        response = await request(setup.app, "POST", PATH, json_body=body)
        assert response.error() == (503, "model_starting", None)

    assert setup.llm.generations == []


async def test_failure_to_load_ends_a_waiting_stream_with_its_error() -> None:
    error = ModelFailedError("It could not be loaded.")
    setup = Setup("starting", ColdStart(), llm=FakeLlm([], held=True, error=error))
    async with post(setup.app, PATH, STREAMED) as exchange:
        await exchange.sent(2)
        setup.llm.gate.release(10)
        response = await exchange.end()

    assert json.loads(events_of(response)[-1])["error"]["code"] == "model_unavailable"


@pytest.mark.parametrize(
    ("since_s", "load_time_s", "retry_after"),
    [(None, 40.0, "40"), (30, 40.0, "10"), (60, 40.0, "1"), (None, 9000.0, "600")],
)
async def test_retry_after_is_the_rest_of_the_time_that_loading_took_before(
    since_s: float | None, load_time_s: float, retry_after: str
) -> None:
    start_s = None if since_s is None else time.monotonic() - since_s
    setup = Setup(
        "starting",
        ColdStart(whole_wait_s=0),
        starting_since_s=start_s,
        load_time_s=load_time_s,
    )

    response = await request(setup.app, "POST", PATH, json_body=BODY)

    assert response.headers["retry-after"] == retry_after


async def test_stream_of_a_loaded_model_has_no_comments() -> None:
    response = await request(Setup("ready", llm=FakeLlm()).app, "POST", PATH, json_body=STREAMED)

    assert not any(chunk.startswith(b":") for chunk in response.chunks)


async def test_client_that_leaves_while_it_waits_cancels_its_request() -> None:
    setup = Setup("starting", ColdStart(comment_interval_s=0.01))
    async with post(setup.app, PATH, STREAMED) as exchange:
        await exchange.sent(2)
        exchange.disconnect()
        await exchange.end()

    assert setup.llm.streams[0].is_closed


async def test_timeouts_of_others_are_passed_on() -> None:
    wait = ColdStartWait(Setup("starting").models, LLM)

    with pytest.raises(TimeoutError, match="of a socket"):
        async with wait.limit(5):
            raise TimeoutError("of a socket")
