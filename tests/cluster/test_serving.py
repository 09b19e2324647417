"""Requests through HAProxy, the ingress, deployment handles and the token channel."""

import base64
import http.client
import json
import re
import socket
import threading

import httpx
import openai
import pytest

from tests.helpers.service import Service, requests_in, sse_events, wait_until

pytestmark = pytest.mark.cluster

LONG = "word " * 400
MESSAGES = [{"role": "user", "content": "one two three"}]


def test_chat_reports_exact_usage(service: Service):
    completion = service.openai().chat.completions.create(model="echo", messages=MESSAGES)

    assert completion.choices[0].message.content == "one two three"
    assert completion.choices[0].finish_reason == "stop"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (3, 3)


def test_stream_carries_every_token_then_usage_then_done(service: Service):
    body = {
        "model": "echo",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with service.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as r:
        *chunks, done = list(sse_events(r.iter_lines()))
    chunks = [json.loads(chunk) for chunk in chunks]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]

    assert done == "[DONE]"
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta["content"] for delta in deltas[1:-1]] == ["one", " two", " three"]
    assert deltas[-1] == {}
    assert chunks[-1]["usage"]["completion_tokens"] == 3


def test_choices_of_several_prompts_are_numbered_prompt_major(service: Service):
    completion = service.openai().completions.create(
        model="echo", prompt=["a b", "c d"], n=2, stream=True, max_tokens=3
    )
    texts = ["", "", "", ""]
    for chunk in completion:
        texts[chunk.choices[0].index] += chunk.choices[0].text

    assert texts == ["a b a", "a b a", "c d c", "c d c"]


def test_concurrent_streams_each_get_their_own_text(service: Service):
    def ask(number: int) -> None:
        prompt = " ".join(f"{number}-{step}" for step in range(20))
        stream = service.openai().completions.create(
            model="echo", prompt=prompt, max_tokens=20, stream=True
        )
        answers[number] = ("".join(chunk.choices[0].text for chunk in stream), prompt)

    answers: dict[int, tuple[str, str]] = {}
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(30)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

    assert len(answers) == 30
    assert all(text == prompt for text, prompt in answers.values())


def test_embeddings_and_images_are_served(service: Service):
    client = service.openai()
    floats = client.embeddings.create(model="vectors", input=["a", "b"], encoding_format="float")
    binary = client.embeddings.create(model="vectors", input=["a", "b"])
    image = client.images.generate(model="colours", prompt="blue", size="32x16", n=2)

    assert [row.embedding for row in floats.data] == [row.embedding for row in binary.data]
    assert len(image.data) == 2
    assert base64.b64decode(image.data[0].b64_json).startswith(b"\x89PNG")


def test_engine_failure_mid_stream_is_an_error_event(service: Service):
    stream = service.openai().chat.completions.create(
        model="breaks", messages=[{"role": "user", "content": LONG}], stream=True
    )
    texts = []

    with pytest.raises(openai.APIError, match="engine failed") as failure:
        texts.extend(chunk.choices[0].delta.content for chunk in stream)

    assert failure.value.code == "engine_error"
    assert texts == ["", "word", " word", " word"]


def test_engine_failure_before_the_first_token_is_a_status(service: Service):
    with pytest.raises(openai.InternalServerError) as failure:
        service.openai().chat.completions.create(
            model="fails-at-once", messages=MESSAGES, stream=True
        )

    assert failure.value.status_code == 500
    assert failure.value.body["code"] == "engine_error"


@pytest.mark.parametrize("is_streamed", [True, False])
def test_client_disconnect_aborts_the_request(service: Service, is_streamed: bool):
    body = {"model": "echo", "prompt": LONG, "stream": is_streamed, "max_tokens": 4000}
    with service.watching("echo") as stats:
        connection = http.client.HTTPConnection("127.0.0.1", service.port)
        headers = {"authorization": f"Bearer {service.key}", "content-type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        wait_until(lambda: requests_in(stats()["echo"]) == [1], timeout_s=10)
        connection.close()
        aborted_after_s = wait_until(lambda: requests_in(stats()["echo"]) == [0], timeout_s=15)

    assert aborted_after_s < 2


def test_invalid_source_fails_only_its_model_with_one_line(service: Service):
    line = "model 'missing': source '/no/such/folder' cannot be loaded: there is no such folder"

    assert service.ready()["missing"] == {"kind": "llm", "state": "failed", "message": line}
    assert {state["state"] for id_, state in service.ready().items() if id_ != "missing"} == {
        "ready"
    }
    assert line in (service.home / "logs" / "serve.log").read_text()
    with pytest.raises(openai.InternalServerError) as failure:
        service.openai().chat.completions.create(model="missing", messages=MESSAGES)
    assert failure.value.status_code == 503


def test_error_response_has_one_request_id(service: Service):
    with service.client() as client:
        response = client.get("/v1/nothing", headers={"x-request-id": "mine-1"})

    assert response.status_code == 404
    assert response.headers.get_list("x-request-id") == ["mine-1"]


def test_body_above_the_limit_is_refused(service: Service):
    with service.client() as client:
        response = client.post("/v1/completions", json={"model": "echo", "prompt": "x" * 100_001})

    assert response.status_code == 413
    assert response.json()["error"]["code"] == "payload_too_large"


def test_without_a_key_only_health_and_readiness_are_served(service: Service):
    statuses = [
        httpx.get(service.url + path).status_code for path in ("/health", "/ready", "/v1/models")
    ]

    assert statuses == [200, 503, 401]


def test_readiness_without_a_key_names_no_model(service: Service):
    answer = httpx.get(f"{service.url}/ready").json()

    assert answer["counts"] == {"ready": 5, "failed": 1}
    assert answer.keys() == {"status", "counts", "keys"}
    assert httpx.get(f"{service.url}/ready/echo").status_code == 401


def test_wrong_keys_of_an_address_are_slowed_and_right_ones_are_not(service: Service):
    def ask(key: str, address: str) -> httpx.Response:
        transport = httpx.HTTPTransport(local_address=address)
        headers = {"authorization": f"Bearer {key}", "x-triptych-client-address": "8.8.8.8"}
        with httpx.Client(transport=transport, headers=headers) as client:
            return client.get(f"{service.url}/v1/models")

    wrong = [ask(f"wrong-{number}", "127.0.0.9") for number in range(21)]

    assert {answer.status_code for answer in wrong[:20]} == {401}
    assert wrong[20].status_code == 429
    assert 1 <= int(wrong[20].headers["retry-after"]) <= 60
    assert ask("wrong", "127.0.0.10").status_code == 401
    assert ask(service.key, "127.0.0.9").status_code == 200


@pytest.mark.parametrize(
    ("path", "header", "status"),
    [
        ("/-/routes", "accept: a", 404),
        ("/v1/models", "x-request-timeout-seconds: 0.0001", 401),
        ("/v1/models", "x-request-id: \xe9", 401),
        ("/v1/models", "serve_multiplexed_model_id: \xff", 401),
    ],
)
def test_port_of_a_replica_takes_no_orders(service: Service, path: str, header: str, status: int):
    (configuration,) = service.run_time_folder().rglob("haproxy.cfg")
    servers = re.findall(r"^ *server \S+ (\S+):(\d+) check", configuration.read_text(), re.M)
    assert len(servers) == 2  # an ingress replica, and Serve's own proxy for the time without one
    for host, port in servers:
        with socket.create_connection((host, int(port)), 20) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n".encode("latin-1"))
            answer = http.client.HTTPResponse(client)
            answer.begin()
            body = answer.read()

        assert answer.status == status
        assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}


def send_raw(service: Service, first_line: str, *headers: str, body: bytes = b"") -> tuple:
    """Send a request as it is; return the status, the headers and the body of the answer."""
    key = f"authorization: Bearer {service.key}"
    lines = [first_line, "host: x", key, *headers, "connection: close", "", ""]
    with socket.create_connection(("127.0.0.1", service.port), 20) as client:
        client.sendall("\r\n".join(lines).encode("latin-1") + body)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        return answer.status, dict(answer.getheaders()), answer.read()


@pytest.mark.parametrize(
    "header",
    [
        "x-request-id: \xe9",
        "x-request-id: " + "x" * 10_000,
        "x-session-id: \xff",
        "serve_multiplexed_model_id: \xff",
        "x-request-timeout-seconds: 0.001",
    ],
)
def test_headers_for_serve_change_nothing(service: Service, header: str):
    status, headers, body = send_raw(service, "GET /v1/models HTTP/1.1", header)

    assert status == 200
    assert json.loads(body)["object"] == "list"
    assert len(headers["x-request-id"]) <= 128


@pytest.mark.parametrize("path", ["/v1/models/", "/v1//models", "//v1/models"])
def test_superfluous_slashes_change_nothing(service: Service, path: str):
    status, _, body = send_raw(service, f"GET {path} HTTP/1.1")

    assert status == 200
    assert json.loads(body)["object"] == "list"


@pytest.mark.parametrize(
    ("first_line", "headers", "expected"),
    [
        ("GET /-/routes HTTP/1.1", [], 404),
        ("GET /v1/nothing HTTP/1.1", [], 404),
        ("OPTIONS * HTTP/1.1", [], 404),
        (
            "GET /v1/realtime HTTP/1.1",
            ["upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: eA=="],
            404,
        ),
    ],
)
def test_what_is_not_there_gets_an_error_in_openais_form(
    service: Service, first_line: str, headers: list[str], expected: int
):
    status, answered, body = send_raw(service, first_line, *headers)

    assert (status, answered["content-type"]) == (expected, "application/json")
    assert json.loads(body)["error"]["code"] == "not_found"


def test_key_in_a_trailer_does_not_count(service: Service):
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    head += b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    body = json.dumps({"model": "echo", "prompt": "a"}).encode()
    trailer = f"authorization: Bearer {service.key}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", service.port), 20) as client:
        client.sendall(head + b"%x\r\n%s\r\n0\r\n%s" % (len(body), body, trailer))
        answer = http.client.HTTPResponse(client)
        answer.begin()

    assert answer.status == 401
