"""Hostile input is refused before any model is called."""

import json
from typing import Any

import pytest

from tests.helpers.asgi import Response, request
from tests.helpers.fakes import LLM, FakeEncoder, FakeLlm, FakePainter, build_app

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ENCODERS = ["/v1/embeddings", "/v1/rerank", "/v1/score"]
POSTS = [CHAT, COMPLETIONS, *ENCODERS, "/v1/images/generations"]
JSON = {"content-type": "application/json"}
USER = {"role": "user", "content": "Hi"}


class UnusedModels:
    """An application whose models must not be called."""

    def __init__(self) -> None:
        self.llm, self.encoder, self.painter = FakeLlm(), FakeEncoder(), FakePainter()
        self.app = build_app(self.llm, self.encoder, self.painter)

    async def send(
        self, path: str, body: bytes, method: str = "POST", headers: Any = JSON
    ) -> Response:
        response = await request(self.app, method, path, chunks=[body], headers=headers)
        assert not self.llm.generations
        assert not self.encoder.requests
        assert not self.encoder.scored
        assert not self.painter.requests
        return response

    async def chat(self, **members: Any) -> tuple[int, str, str | None]:
        body = {"model": LLM, "messages": [USER], **members}
        return (await self.send(CHAT, json.dumps(body).encode())).error()

    async def complete(self, **members: Any) -> tuple[int, str, str | None]:
        body = {"model": LLM, "prompt": "Hi", **members}
        return (await self.send(COMPLETIONS, json.dumps(body).encode())).error()


MALFORMED = [
    b"",
    b" ",
    b"null",
    b"[]",
    b'"x"',
    b"1",
    b"true",
    b"{",
    b"}",
    b"{]",
    b'{"a"}',
    b'{"a":}',
    b'{"a":1,}',
    b'{"a":1 "b":2}',
    b"{'a':1}",
    b'{"a":01}',
    b'{"a":+1}',
    b'{"a":.5}',
    b'{"a":1.}',
    b'{"a":1e}',
    b'{"a":0x1}',
    b'{"a":NaN}',
    b'{"a":Infinity}',
    b'{"a":-Infinity}',
    b'{"a":tru}',
    b'{"a":"\x00"}',
    b'{"a":"\n"}',
    b'{"a":"\\x"}',
    b'{"a":"\\u12"}',
    b'{"a":"\\ud800"}',
    b'{"a":"\xff"}',
    b'{"a":"\xed\xa0\x80"}',
    b'{"a":"b"',
    b'{"a":1}{}',
    b'{"a":1}\x00',
    b'{"a":1,"a":2}',
    b'{"a":{"b":1,"b":2}}',
    b"/* */{}",
    b"{}//",
    b"\xef\xbb\xbf{}",
    '{"a":1}'.encode("utf-16"),
    '{"a":1}'.encode("utf-32-le"),
    *[b"[" * depth + b"]" * depth for depth in (200, 1000, 40_000)],
    *[b'{"a":' * depth + b"1" + b"}" * depth for depth in (201, 1000, 40_000)],
    *[b'{"tools":' + b"[" * depth + b"]" * depth + b"}" for depth in (1000, 40_000)],
]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:16]))
async def test_body_that_is_not_a_json_object_is_refused(path: str, body: bytes) -> None:
    response = await UnusedModels().send(path, body)

    assert response.error()[:2] == (400, "invalid_json")


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"n": 10**30}, "n"),
        ({"n": True}, "n"),
        ({"n": 1_000_000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**63}, "max_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 2**40}, "min_tokens"),
        ({"top_logprobs": -1, "logprobs": True}, "top_logprobs"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": -0.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": "x" * 257}, "stop[0]"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias[1]"),
        ({"logit_bias": {str(token): 1 for token in range(301)}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"bad_words": [""]}, "bad_words[0]"),
        ({"bad_words": ["a"] * 65}, "bad_words"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"messages": [USER] * 2049}, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 129}, "tools"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_numbers_out_of_range_are_refused_with_their_name(members: Any, param: str) -> None:
    status, _, named = await UnusedModels().chat(**members)

    assert (status, named) == (400, param)


@pytest.mark.parametrize(
    "prompt", ["", [], [[]], [-1], [""], ["a", 1], [1, "a"], [True], [[1], [2**40]], {}, 5]
)
async def test_prompts_of_invalid_form_are_refused(prompt: Any) -> None:
    assert (await UnusedModels().complete(prompt=prompt))[::2] == (400, "prompt")


@pytest.mark.parametrize(("prompts", "param"), [(60_000, "n"), (100_000, "prompt")])
async def test_too_many_choices_are_refused(prompts: int, param: str) -> None:
    assert (await UnusedModels().complete(prompt=["a"] * prompts))[::2] == (400, param)


@pytest.mark.parametrize(
    "model",
    [
        "../../etc",
        "/etc/passwd",
        "http://x/y",
        "a" * 1_000_000,
        "org/repo",
        "\0",
        f"{LLM}:../../",
        f"{LLM}:",
        f":{LLM}",
        "LLM",
        f"{LLM} ",
    ],
    ids=lambda model: model[:16],
)
async def test_model_ids_are_not_used_as_paths(model: str) -> None:
    unused = UnusedModels()

    assert await unused.chat(model=model) == (404, "model_not_found", "model")
    body = json.dumps({"model": model, "messages": [USER]}).encode()
    assert len((await unused.send(CHAT, body)).body) < 400


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "FOO"])
@pytest.mark.parametrize("path", POSTS)
async def test_other_methods_are_refused_with_those_allowed(path: str, method: str) -> None:
    response = await UnusedModels().send(path, b"", method)

    assert response.error()[:2] == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/V1/chat/completions",
        "/v1/chat/%2e%2e/completions",
        "/v1/chat/completions;a=b",
        "/",
        "/v1",
        "/docs",
        "/openapi.json",
    ],
)
async def test_other_urls_are_not_found_without_redirect(path: str) -> None:
    response = await UnusedModels().send(path, b"{}")

    assert response.error()[:2] == (404, "not_found")
    assert "location" not in response.headers


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/json-patch+json"},
        {"content-type": "application/x-www-form-urlencoded"},
        {**JSON, "content-encoding": "gzip"},
        {**JSON, "content-encoding": "br"},
    ],
    ids=repr,
)
async def test_other_media_types_are_refused(headers: Any) -> None:
    response = await UnusedModels().send(CHAT, b"{}", headers=headers)

    assert response.error()[:2] == (415, "unsupported_media_type")


@pytest.mark.parametrize("text", ["\0", "😀", "e" + "\u0301" * 100_000, "\u202eabc", "\u2028"])
async def test_unusual_characters_reach_the_model_unchanged(text: str) -> None:
    llm = FakeLlm()
    body = {"model": LLM, "messages": [{"role": "user", "content": text}]}

    response = await request(build_app(llm), "POST", CHAT, json_body=body)

    assert response.status == 200
    (prompt,) = llm.generations[0].prompts
    assert not isinstance(prompt, str | tuple)
    assert prompt.messages[0].content == text
