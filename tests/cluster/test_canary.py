"""What clients send leaks into no file, log or page, however the request ends."""

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from api.access.key_format import new_secret
from tests.cluster.conftest import APPLICATIONS, LEDGER, application
from tests.helpers.canaries import Canaries, files_below
from tests.helpers.service import AUTH_TOKEN, SERVE, Service, running, wait_until
from tests.helpers.tenants import make_key

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

LOGGED, USER, PEPPER = "the prompt that may be logged", "the user", "the pepper"
ENVIRONMENT = "the key of the environment"
MAX_BODY_BYTES = 100_000


@dataclass
class Traffic:
    """Everything that clients have sent, and the errors they got."""

    service: Service
    canaries: Canaries
    key: str
    small: str
    """A key with limits that every request exceeds."""
    logging: str
    """A key whose prompts may be logged."""
    admin: str
    answers: list[tuple[str, int, bytes]] = field(default_factory=list)
    """Name of the request, status and body of each error."""
    statuses: dict[str, int] = field(default_factory=dict)

    def ask(self, what: str, path: str, body: Any, key: str | None = None, **headers: str) -> int:
        """Send a body, and record an error response."""
        headers = {"authorization": f"Bearer {key or self.key}", **headers}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        # From an address of their own: those of new keys were refused too often at first.
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as client:
            response = client.post(
                f"{self.service.url}/v1/{path}",
                content=content,
                headers={"content-type": "application/json", **headers},
                timeout=30,
            )
        if response.status_code != 200 or b'"error"' in response.content:
            self.answers.append((what, response.status_code, response.content))
        self.statuses[what] = response.status_code
        return response.status_code

    def disconnect(self, path: str, body: dict[str, Any]) -> None:
        """Request a long completion, and disconnect."""
        request = {**body, "max_tokens": 1000}
        headers = {"authorization": f"Bearer {self.key}"}
        timeout = httpx.Timeout(30, read=0.5)
        url = f"{self.service.url}/v1/{path}"
        with (
            contextlib.suppress(httpx.ReadTimeout),
            httpx.stream("POST", url, json=request, headers=headers, timeout=timeout) as response,
        ):
            next(response.iter_raw())


def to_png(text: str) -> bytes:
    info = PngInfo()
    info.add_text("Comment", text)
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    """A service that has completed, refused, failed and lost many requests."""
    home: Path = tmp_path_factory.mktemp("canary")
    canaries = Canaries()
    environment_key = canaries.add(ENVIRONMENT, new_secret()[1])
    (home / "api_key").write_text(environment_key)
    ingress = {
        **APPLICATIONS[0],
        "args": {
            "limits": {"max_body_bytes": MAX_BODY_BYTES},
            "poll_interval_s": 1,
            "prompt_log": {"folder": str(home / "prompts")},
        },
    }
    models = [
        application("echo", "llm", "LLM", engine={"tokens_per_s": 50}),
        application("breaks", "llm", "LLM", engine={"tokens_per_s": 10, "fail_after_tokens": 2}),
        application("vectors", "embedding", "Embedding"),
        application("colours", "diffusion", "Diffusion"),
    ]
    with (
        pytest.MonkeyPatch.context() as environment,
        running_with(environment, environment_key, [ingress, *models, LEDGER], home) as service,
    ):
        canaries.add(PEPPER, (home / "pepper").read_text().strip())
        traffic = Traffic(
            service,
            canaries,
            canaries.add("a key", make_key(service, "plain", "--tpm", "100000")),
            canaries.add("a small key", make_key(service, "small", "--tpm", "1")),
            canaries.add("a logging key", make_key(service, "logging", "--allow-prompt-log")),
            canaries.add("an admin key", make_key(service, "admin", "--scope", "admin")),
        )
        administer(traffic)
        send_wrong_keys(traffic)
        for path in ("chat/completions", "completions"):
            for is_streamed in (False, True):
                send_texts(traffic, path, is_streamed)
        send_tools_and_images(traffic)
        send_inputs(traffic)
        send_prompts_to_log(traffic)
        send_broken_bodies(traffic)
        kill_mid_stream(traffic)
        settle(traffic)
        yield traffic


@contextlib.contextmanager
def running_with(
    environment: pytest.MonkeyPatch, key: str, applications: list[Any], home: Path
) -> Iterator[Service]:
    environment.setenv("TRIPTYCH_API_KEYS", key)
    with running({"applications": applications}, home) as service:
        yield service


def administer(traffic: Traffic) -> None:
    """Create a key over HTTP, and rotate it."""
    with traffic.service.client() as http:
        http.headers["authorization"] = f"Bearer {traffic.admin}"
        made = http.post("/v1/keys", json={"name": "by-http"}).json()
        rotated = http.post(f"/v1/keys/{made['id']}/rotate", json={"grace_s": 60}).json()
    traffic.canaries.add("a key made over HTTP", made["key"])
    traffic.canaries.add("a rotated key", rotated["key"])


def send_wrong_keys(traffic: Traffic) -> None:
    wrong = traffic.canaries.add("a wrong key", new_secret()[1])
    odd = traffic.canaries.add("a key of another form", f"sk-{os.urandom(16).hex()}")
    typo = traffic.canaries.add("a key with a typing error", traffic.key[:-1] + "!")
    long = traffic.canaries.add("a long key", os.urandom(16).hex())
    body = {"model": "echo", "prompt": "one"}
    for number, value in enumerate(
        [
            f"Bearer {wrong}",
            f"bearer  {wrong}",
            f"Basic {wrong}",
            odd,
            f"Bearer {odd}",
            f"Bearer {typo}",
            f"Bearer {odd} ",
            f"Bearer {'x' * 3000}{long}",
            f"Bearer {'x' * 1_000_000}{long}",
        ]
    ):
        with contextlib.suppress(
            httpx.TransportError
        ):  # HAProxy rejects headers that are far too long
            traffic.ask(f"wrong key {number}", "completions", body, authorization=value)
    for name in ("api_key", "key", "api-key"):
        traffic.ask(f"{name} in the query", f"completions?{name}={wrong}", body, "none")
        url = f"{traffic.service.url}/v1/models?{name}={wrong}"
        assert httpx.get(url).status_code == 401
    traffic.ask("x-api-key", "completions", body, "none", **{"x-api-key": wrong})
    with socket.create_connection(("127.0.0.1", traffic.service.port)) as raw:
        raw.sendall(f"GET /v1/models HTTP/9 {wrong}\r\nAuthorization {wrong}\r\n\r\n".encode())
        raw.recv(1000)


def to_body(path: str, prompt: str) -> dict[str, Any]:
    if path == "completions":
        return {"prompt": prompt}
    return {"messages": [{"role": "user", "content": prompt}]}


def send_texts(traffic: Traffic, path: str, is_streamed: bool) -> None:
    kind = f"{path} {'streamed' if is_streamed else 'whole'}"

    def to_request(what: str, model: str = "echo", **members: Any) -> dict[str, Any]:
        prompt = traffic.canaries.new(f"prompt: {what}, {kind}")
        return {"model": model, "stream": is_streamed, **to_body(path, prompt), **members}

    def ask(what: str, expected: int, model: str = "echo", **members: Any) -> None:
        name = f"{what}, {kind}"
        key = traffic.small if what == "too much" else None
        assert traffic.ask(name, path, to_request(what, model, **members), key) == expected, name

    user = traffic.canaries.new(USER)
    stop = traffic.canaries.new(f"a stop sequence, {kind}")
    ask("succeeds", 200, user=user, stop=stop)
    ask("may not be logged", 200, log_prompt=True)
    ask("engine error", 200 if is_streamed else 500, "breaks", user=user, max_tokens=3)
    for number in range(2):
        wrong = traffic.canaries.new(f"a wrong value {number}, {kind}")
        ask(f"bad type {number}", 400, **[{"temperature": wrong}, {"n": [{"x": wrong}]}][number])
    ask("bad stop", 400, stop=[{"x": traffic.canaries.new(f"a wrong stop, {kind}")}])
    ask("absent model", 404, "nothing")
    ask("absent adapter", 404, peft="nothing")
    ask("wrong kind of model", 400, "vectors")
    ask("too much", 429)
    huge = "x " * (MAX_BODY_BYTES // 2)
    body = {**to_request("too large"), **to_body(path, traffic.canaries.new(f"413, {kind}") + huge)}
    assert traffic.ask(f"too large, {kind}", path, body) == 413
    traffic.disconnect(path, to_request("left"))


def send_tools_and_images(traffic: Traffic) -> None:
    new = traffic.canaries.new
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "look_up", "arguments": json.dumps({"city": new("arguments")})},
    }
    schema = {
        "type": "object",
        "description": new("a schema's description"),
        "properties": {"city": {"type": "string", "enum": [new("a schema's value")]}},
    }
    function = {"name": "look_up", "description": new("a function"), "parameters": schema}
    image = base64.b64encode(to_png(new("an image"))).decode()
    not_an_image = base64.b64encode(new("not an image").encode()).decode()
    turns = [
        {"role": "system", "content": new("a system prompt")},
        {"role": "user", "content": "where?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": new("a tool's result")},
    ]
    tools = {"tools": [{"type": "function", "function": function}]}
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": schema}}
    wrong = {"type": "function", "function": {**function, "parameters": new("no schema")}}
    for model in ("echo", "breaks", "nothing"):
        for is_streamed in (False, True):
            body = {"model": model, "stream": is_streamed, "max_tokens": 3}
            kind = f"{model} {'streamed' if is_streamed else 'whole'}"

            def ask(what: str, body: Any = body, kind: str = kind, **members: Any) -> None:
                traffic.ask(f"{what}, {kind}", "chat/completions", {**body, **members})

            ask("tools", messages=turns, **tools)
            ask("a form", messages=turns[:2], response_format=form)
            ask("wrong tools", messages=turns, tools=[wrong])
            for data in (image, not_an_image, image[:-3] + "*"):
                url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
                text = {"type": "text", "text": new(f"a text beside an image, {kind}")}
                ask("an image", messages=[{"role": "user", "content": [text, url]}])
    assert traffic.statuses["tools, echo whole"] == 200
    assert traffic.statuses["wrong tools, echo whole"] == 400


def send_inputs(traffic: Traffic) -> None:
    """Send embeddings and image requests."""
    new, ask = traffic.canaries.new, traffic.ask
    user = new(USER)
    embedding = {"model": "vectors", "input": [new("an input"), "two"], "user": user}
    assert ask("embedding", "embeddings", embedding) == 200
    assert ask("bad input", "embeddings", {**embedding, "input": {"x": new("bad")}}) == 400
    assert ask("absent encoder", "embeddings", {**embedding, "model": "nothing"}) == 404
    assert ask("full encoder", "embeddings", embedding, traffic.small) == 429
    drawing = {
        "model": "colours",
        "prompt": new("an image's prompt"),
        "negative_prompt": new("a negative prompt"),
        "user": user,
    }
    assert ask("image", "images/generations", drawing) == 200
    for members in ({"n": 1000}, {"size": new("a size")}, {"seed": new("a seed")}):
        assert ask(f"bad {members}", "images/generations", {**drawing, **members}) == 400
    assert ask("no image model", "images/generations", {**drawing, "model": "echo"}) == 400


def send_prompts_to_log(traffic: Traffic) -> None:
    """Only the first of these prompts may be logged."""
    new = traffic.canaries.new
    body = {"model": "echo", "log_prompt": True}
    logged = {**body, "prompt": new(LOGGED)}
    assert traffic.ask("logged", "completions", logged, traffic.logging) == 200
    not_asked = {"model": "echo", "prompt": new("a prompt without log_prompt")}
    assert traffic.ask("not asked", "completions", not_asked, traffic.logging) == 200
    failing = {**body, "prompt": new("a prompt that is refused"), "model": "nothing"}
    assert traffic.ask("refused", "completions", failing, traffic.logging) == 404


def send_broken_bodies(traffic: Traffic) -> None:
    new, ask = traffic.canaries.new, traffic.ask
    text = new("a broken body").encode()
    assert ask("not JSON", "completions", b'{"model":"echo","prompt":"' + text) == 400
    assert ask("no object", "completions", b'["' + text[:40] + b'"]') == 400
    duplicate = {"model": "echo", "prompt": new("a duplicate")}
    twice = json.dumps(duplicate).replace('"model"', '"prompt": "x", "model"')
    assert ask("duplicate keys", "completions", twice.encode()) == 400
    other = json.dumps({"model": "echo", "prompt": new("of another type")}).encode()
    assert ask("no JSON type", "completions", other, **{"content-type": "text/plain"}) == 415
    assert ask("no such page", "nowhere", {"prompt": new("for no page")}) == 404
    half = b'{"model":"echo","prompt":"' + new("half a body").encode()
    with socket.create_connection(("127.0.0.1", traffic.service.port)) as raw:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {traffic.key}"
        head += "\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
        raw.sendall(head.encode() + half)
        time.sleep(0.3)


def kill_mid_stream(traffic: Traffic) -> None:
    """Kill the replica during a stream."""
    pids = traffic.service.replica_pids()["echo"]
    url = f"{traffic.service.url}/v1/completions"
    headers = {"authorization": f"Bearer {traffic.key}"}
    body = {
        "model": "echo",
        "prompt": traffic.canaries.new("a prompt whose replica is killed"),
        "max_tokens": 1000,
    }
    with httpx.stream("POST", url, json={**body, "stream": True}, headers=headers) as response:
        pieces = response.iter_raw()
        next(pieces)
        for pid in pids:
            psutil.Process(pid).kill()
        traffic.answers.append(("killed", response.status_code, b"".join(pieces)))


def settle(traffic: Traffic) -> None:
    """Wait for everything that is written with a delay."""
    wait_until(lambda: traffic.service.ready()["echo"]["state"] == "ready", timeout_s=60)
    spool = traffic.service.home / "spool"
    wait_until(lambda: not any(path.stat().st_size for path in files_below(spool)), timeout_s=30)
    audit = traffic.service.home / "logs" / "audit.jsonl"
    wait_until(lambda: "auth_failures" in audit.read_text(), timeout_s=20)
    time.sleep(2)  # logs are flushed periodically


def test_files_of_the_service_hold_nothing_that_clients_sent(traffic: Traffic):
    home = traffic.service.home
    found = {(name, path.relative_to(home)) for name, path in traffic.canaries.found_below(home)}
    allowed = {
        (ENVIRONMENT, Path("api_key")),
        (PEPPER, Path("pepper")),
        *((LOGGED, path.relative_to(home)) for path in (home / "prompts").iterdir()),
        *((USER, path.relative_to(home)) for path in home.glob("triptych.db*")),
    }

    assert found <= allowed
    assert {name for name, _ in found} == {ENVIRONMENT, PEPPER, LOGGED, USER}, "the search works"


def test_files_of_ray_hold_nothing_that_clients_sent(traffic: Traffic):
    folder = traffic.service.run_time_folder()
    logs = [path for path in files_below(folder) if path.suffix in (".log", ".err", ".out")]

    assert len(logs) > 20
    assert list(traffic.canaries.found_below(folder)) == []


def test_pages_of_serve_and_ray_show_nothing_that_clients_sent(traffic: Traffic):
    service = traffic.service
    headers = {"authorization": f"Bearer {AUTH_TOKEN.read_text().strip()}"}
    status = subprocess.run(
        [SERVE, "status", "--address", service.dashboard],
        env={**os.environ, "RAY_AUTH_MODE": "token"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    texts = {"serve status": status.stdout, "REST": json.dumps(service.applications()).encode()}
    for page in ("tasks", "actors", "workers", "objects", "jobs", "cluster_events"):
        url = f"{service.dashboard}/api/v0/{page}?detail=1"
        answer = httpx.get(url, headers=headers, timeout=60)
        assert answer.status_code == 200, page
        texts[page] = answer.content
    targets = service.run_time_folder() / "ray" / "prom_metrics_service_discovery.json"
    for target in json.loads(targets.read_text())[0]["targets"]:
        answer = httpx.get(f"http://{target}/metrics", timeout=30)
        assert answer.status_code == 200, target
        texts[f"metrics of {target}"] = answer.content

    assert {name: traffic.canaries.found_in(text) for name, text in texts.items()} == {
        name: set() for name in texts
    }


def test_responses_of_the_service_show_nothing_that_clients_sent(traffic: Traffic):
    paths = ["/ready", "/health", "/v1/models", "/v1/models/echo", "/v1/usage", "/v1/keys"]
    paths += ["/v1/usage?group_by=key,model", "/v1/keys/plain", "/v1/models/nothing", "/v1/nothing"]
    with traffic.service.client() as http:
        for key in (traffic.admin, traffic.key):
            http.headers["authorization"] = f"Bearer {key}"
            for path in paths:
                answer = http.get(path)
                head = json.dumps(dict(answer.headers)).encode()
                assert traffic.canaries.found_in(answer.content + head) == set(), path
        http.headers["authorization"] = f"Bearer {traffic.admin}"
        by_user = http.get("/v1/usage?group_by=user").content

    assert traffic.canaries.found_in(by_user) == {USER}


def test_errors_repeat_nothing_that_clients_sent(traffic: Traffic):
    assert len(traffic.answers) > 50
    assert {status for _, status, _ in traffic.answers} >= {400, 401, 404, 413, 415, 429, 500}
    # The text that the model wrote before it failed is not part of the error.
    errors = {
        what: next(line for line in body.splitlines() if b'"error"' in line)
        for what, status, body in traffic.answers
        if b'"error"' in body
    }

    assert {
        what: found for what, body in errors.items() if (found := traffic.canaries.found_in(body))
    } == {}


def test_processes_show_only_the_key_of_their_environment(traffic: Traffic):
    found: set[str] = set()
    for process in traffic.service.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            shown = " ".join(process.cmdline()).encode()
            assert traffic.canaries.found_in(shown) == set(), process.cmdline()
            found |= traffic.canaries.found_in(json.dumps(process.environ()).encode())

    assert found == {ENVIRONMENT}
