import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from api.endpoint import Caller, Endpoint
from api.errors import UnsupportedParameterError
from api.ports.stream import Extra, TextDelta, TokenLogprob, ToolCallDelta
from api.ports.tenancy import Key
from api.ports.text import Completion, Conversation, Message
from api.registry import Llm, TextOptions
from api.schema.chat import ChatRequest
from api.services import Services
from api.settings import Limits, Policy
from api.text.chat import ChatRenderer, prepare_chat, to_generation
from api.text.endpoint import PreparedText, TextDialect
from api.text.rendering import ResponseMeta
from tests.helpers.asgi import Response, request
from tests.helpers.fakes import ENCODER, LLM, META, PAINTER, FakeLlm, build_app, build_models

TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "does", "parameters": {"type": "object"}},
}
URL = "/v1/chat/completions"
BODY = {"model": LLM, "messages": [{"role": "user", "content": "Hi"}]}


async def ask(llm: FakeLlm | None = None, **members: Any) -> Response:
    return await request(build_app(llm), "POST", URL, json_body={**BODY, **members})


@pytest.mark.parametrize("policy", [Policy(), Policy(parameters="lenient")])
async def test_switch_that_the_template_does_not_have_is_refused(policy: Policy) -> None:
    llm = Llm(FakeLlm(), TextOptions(template_options=frozenset({"enable_thinking"})))
    request = ChatRequest.model_validate(
        {**BODY, "chat_template_kwargs": {"enable_thinking": True, "colour": True}}
    )

    with pytest.raises(UnsupportedParameterError) as caught:
        prepare_chat(request, llm, META, Services(policy=policy))

    assert caught.value.param == "chat_template_kwargs.colour"


def generation_of(**members: Any) -> Any:
    request = ChatRequest.model_validate({**BODY, **members})
    return to_generation(request, Llm(FakeLlm()), META, Limits())


async def test_response_is_a_chat_completion() -> None:
    response = await ask()

    value = response.json()
    assert value.pop("created") > 1_700_000_000
    assert value == {
        "id": f"chatcmpl-{response.headers['x-request-id']}",
        "object": "chat.completion",
        "model": LLM,
        "system_fingerprint": "fp_unknown",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


async def test_response_has_every_choice() -> None:
    llm = FakeLlm([(TextDelta(0, "a", "stop"), TextDelta(1, "b", "length"))])

    response = await ask(llm, n=2)

    assert [
        (choice["index"], choice["message"]["content"], choice["finish_reason"])
        for choice in response.json()["choices"]
    ] == [(0, "a", "stop"), (1, "b", "length")]


async def test_stream_has_role_then_content_then_finish_reason() -> None:
    response = await ask(stream=True)

    *chunks, done = response.events()
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        for delta, reason in [
            ({"role": "assistant", "content": ""}, None),
            ({"content": "Hel"}, None),
            ({"content": "lo"}, None),
            ({}, "stop"),
        ]
    ]
    assert done == "[DONE]"


async def test_chunk_is_a_chat_completion_chunk() -> None:
    response = await ask(stream=True)

    chunk = response.events()[0]
    assert chunk.keys() == {"id", "object", "created", "model", "system_fingerprint", "choices"}
    assert chunk["id"] == f"chatcmpl-{response.headers['x-request-id']}"
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["model"] == LLM
    assert chunk["created"] > 1_700_000_000


async def test_usage_chunk_shares_all_members_but_choices() -> None:
    response = await ask(stream=True, stream_options={"include_usage": True})

    first, *_, last, _ = response.events()
    assert {**last, "usage": None, "choices": first["choices"]} == first
    assert last["choices"] == []


async def test_text_and_finish_reason_of_one_delta_are_two_chunks() -> None:
    response = await ask(FakeLlm([(TextDelta(0, "all", "length"),)]), stream=True)

    assert [
        (chunk["choices"][0]["delta"], chunk["choices"][0]["finish_reason"])
        for chunk in response.events()[:-1]
    ] == [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "all"}, None),
        ({}, "length"),
    ]


async def test_every_choice_begins_with_its_role() -> None:
    llm = FakeLlm(
        [
            (TextDelta(1, "x"), TextDelta(0, "a")),
            (TextDelta(1, "", "stop"), TextDelta(0, "b", "stop")),
        ]
    )

    response = await ask(llm, stream=True, n=2)

    assert [
        chunk["choices"][0]["index"]
        for chunk in response.events()[:-1]
        if "role" in chunk["choices"][0]["delta"]
    ] == [1, 0]


async def test_empty_answer_has_role_and_finish_reason() -> None:
    response = await ask(FakeLlm([(TextDelta(0, "", "stop"),)]), stream=True)

    assert [chunk["choices"][0]["delta"] for chunk in response.events()[:-1]] == [
        {"role": "assistant", "content": ""},
        {},
    ]


async def test_empty_delta_is_not_sent() -> None:
    llm = FakeLlm([(TextDelta(0, "a"),), (TextDelta(0, ""),), (TextDelta(0, "", "stop"),)])

    response = await ask(llm, stream=True)

    assert len(response.chunks) == len([b"a", b"finish", b"[DONE]"])


@pytest.mark.parametrize("model", ['quo"te\\', "é", "a\nb"])
async def test_unusual_model_id_survives_the_stream(model: str) -> None:
    request = ChatRequest.model_validate({**BODY, "model": model})
    meta = ResponseMeta.new("chatcmpl", "r", model, TextOptions())
    renderer = ChatRenderer(request, meta, None)

    assert json.loads(renderer.render_chunks(TextDelta(0, "a"))[0])["model"] == model


def test_messages_become_a_conversation() -> None:
    generation = generation_of(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi", "name": "ann"},
            {"role": "assistant", "content": "Hello"},
        ]
    )

    assert generation.request_id == "req_1"
    assert generation.prompts == (
        Conversation(
            (
                Message("system", "Be brief."),
                Message("user", "Hi", "ann"),
                Message("assistant", "Hello"),
            )
        ),
    )


@pytest.mark.parametrize(
    ("members", "max_tokens"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
    ],
)
def test_max_completion_tokens_has_precedence(
    members: dict[str, int], max_tokens: int | None
) -> None:
    assert generation_of(**members).sampling.max_tokens == max_tokens


async def test_unknown_model_returns_404() -> None:
    response = await ask(model="absent")

    assert response.error() == (404, "model_not_found", "model")


@pytest.mark.parametrize("model", [ENCODER, PAINTER])
async def test_model_of_another_kind_returns_400(model: str) -> None:
    response = await ask(model=model)

    assert response.error() == (400, "wrong_model_kind", "model")


async def test_invalid_parameter_returns_400() -> None:
    response = await ask(messages=[{"role": "robot", "content": "Hi"}])

    assert response.error() == (400, "invalid_value", "messages[0].role")


def token(text: str, logprob: float | None, *top: TokenLogprob) -> TokenLogprob:
    return TokenLogprob(text, logprob, text.encode(), top)


def rendered(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


async def test_logprobs_are_on_the_chunk_of_their_content() -> None:
    extra = Extra(logprobs=(token("é", -0.5, token("é", -0.5), token("e", -1.0)),))
    llm = FakeLlm([(TextDelta(0, "é", None, extra),), (TextDelta(0, "", "stop"),)])

    response = await ask(llm, stream=True, logprobs=True, top_logprobs=2)

    content = [{**rendered("é", -0.5), "top_logprobs": [rendered("é", -0.5), rendered("e", -1.0)]}]
    assert [chunk["choices"][0]["logprobs"] for chunk in response.events()[:-1]] == [
        None,
        {"content": content, "refusal": None},
        None,
    ]
    assert llm.generations[0].sampling.logprobs == 2


async def test_logprobs_of_a_token_without_text_are_sent() -> None:
    llm = FakeLlm([(TextDelta(0, "", None, Extra(logprobs=(token("x", -0.5),))),)])

    response = await ask(llm, stream=True, logprobs=True)

    assert response.events()[1]["choices"][0]["delta"] == {"content": ""}


class ThreadRecorder:
    """A `ChunkRenderer` that records the thread it runs in."""

    thread: threading.Thread | None = None

    def render(self, completion: Completion) -> dict[str, Any]:
        self.thread = threading.current_thread()
        return {}


@pytest.mark.parametrize(
    ("members", "is_main"),
    [({"logprobs": True}, False), ({"loglikelihood": True}, False), ({}, True)],
)
async def test_logprobs_are_rendered_off_the_event_loop(
    members: dict[str, Any], is_main: bool
) -> None:
    recorder: Any = ThreadRecorder()

    def prepare(*arguments: Any) -> PreparedText:
        return replace(prepare_chat(*arguments), renderer=recorder)

    dialect = TextDialect("chat/completions", ChatRequest, prepare, Services())
    endpoint = Endpoint(dialect, build_models(), Services())
    caller = Caller(Key("k", "k", "t"), "req_1")

    assert await endpoint.answer(json.dumps({**BODY, **members}).encode(), caller) == b"{}"
    assert (recorder.thread is threading.main_thread()) == is_main


async def test_loglikelihood_with_several_choices_returns_400() -> None:
    response = await ask(loglikelihood=True, n=2)

    assert response.error() == (400, "invalid_value", "n")


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_loglikelihood_leaves_out_the_first_token(is_streamed: bool) -> None:
    extra = Extra(prompt_logprobs=(token("a", None), token("b", -1.0)))
    llm = FakeLlm([(TextDelta(0, "x", "stop", extra),)])

    response = await ask(llm, stream=is_streamed, loglikelihood=True)

    first = response.events()[0] if is_streamed else response.json()
    assert first["choices"][0]["loglikelihood"] == [rendered("b", -1.0)]
    assert llm.generations[0].sampling.prompt_logprobs == 0


CALLS = (
    TextDelta(0, "", None, Extra(tool_calls=(ToolCallDelta(0, "call_1", "f", '{"a"'),))),
    TextDelta(0, "", None, Extra(tool_calls=(ToolCallDelta(0, None, None, ":1}"),))),
    TextDelta(0, "", "tool_calls"),
)


async def test_streamed_tool_calls_have_an_index() -> None:
    response = await ask(FakeLlm([CALLS]), stream=True, tools=[TOOL])

    assert [chunk["choices"][0]["delta"] for chunk in response.events()[1:-1]] == [
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"a"'},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
        {},
    ]
    assert response.events()[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_tool_calls_are_part_of_the_message() -> None:
    call = Extra(tool_calls=(ToolCallDelta(0, "call_1", "f", "{}"),))

    response = await ask(FakeLlm([(TextDelta(0, "", "tool_calls", call),)]), tools=[TOOL])

    message = response.json()["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]


@pytest.mark.parametrize("is_wanted", [True, False])
async def test_reasoning_is_streamed_unless_excluded(is_wanted: bool) -> None:
    thoughts = Extra(reasoning="hm", logprobs=(token("hm", -1.0),))
    llm = FakeLlm([(TextDelta(0, "", None, thoughts), TextDelta(0, "Hi", "stop"))])

    response = await ask(llm, stream=True, include_reasoning=is_wanted, logprobs=True)

    deltas = [chunk["choices"][0]["delta"] for chunk in response.events()[:-1]]
    thinking = [{"reasoning": "hm"}] if is_wanted else []
    assert deltas == [{"role": "assistant", "content": ""}, *thinking, {"content": "Hi"}, {}]


async def test_service_tier_is_always_default() -> None:
    assert (await ask(service_tier="auto")).json()["service_tier"] == "default"
    assert "service_tier" not in (await ask()).json()


@pytest.mark.parametrize("is_wanted", [True, False])
async def test_reasoning_is_part_of_the_message_unless_excluded(is_wanted: bool) -> None:
    llm = FakeLlm([(TextDelta(0, "42", "stop", Extra(reasoning="Hm.")),)])

    response = await ask(llm, include_reasoning=is_wanted)

    message = response.json()["choices"][0]["message"]
    assert message["content"] == "42"
    assert message.get("reasoning") == ("Hm." if is_wanted else None)


@pytest.mark.parametrize(
    "choice", [{"type": "function", "extra": 1}, {"type": "allowed_tools", "extra": 1}]
)
async def test_lenient_policy_refuses_values_that_stay_invalid_without_unknown_members(
    choice: Any,
) -> None:
    app = build_app(policy=Policy(parameters="lenient"))
    body = {**BODY, "tools": [TOOL], "tool_choice": choice}

    response = await request(app, "POST", URL, json_body=body)

    assert response.error() == (400, "invalid_value", "tool_choice")


async def test_parameters_without_effect_are_listed() -> None:
    response = await ask(user="ann", metadata={"a": "b"}, log_prompt=True)

    assert response.headers["x-ignored-parameters"] == "metadata, log_prompt"


UNABLE = TextOptions(unsupported=frozenset({"reasoning_effort"}))


async def test_parameter_that_the_model_does_not_support_is_refused() -> None:
    app = build_app(text=UNABLE)
    response = await request(app, "POST", URL, json_body={**BODY, "reasoning_effort": "low"})

    assert response.error() == (400, "unsupported_parameter", "reasoning_effort")


async def test_lenient_policy_leaves_out_and_lists_what_the_model_does_not_support() -> None:
    llm = FakeLlm()
    app = build_app(llm, text=UNABLE, policy=Policy(parameters="lenient"))
    response = await request(app, "POST", URL, json_body={**BODY, "reasoning_effort": "low"})

    assert response.headers["x-ignored-parameters"] == "reasoning_effort"
    (prompt,) = llm.generations[0].prompts
    assert isinstance(prompt, Conversation)
    assert prompt.reasoning_effort is None
