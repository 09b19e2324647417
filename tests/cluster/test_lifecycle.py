"""Changes while the service runs: models and replicas."""

import json
import os
import signal
import threading

import openai
import pytest

from tests.cluster.conftest import APPLICATIONS, application
from tests.helpers.service import Service, sse_events, wait_until

pytestmark = pytest.mark.cluster


def test_adding_and_removing_a_model_does_not_affect_the_others(service: Service):
    """Other models keep their replicas, a stream goes on, and /v1/models follows within 5 s."""
    before = service.replica_pids()
    words: list[str] = []

    def read() -> None:
        stream = service.openai().completions.create(
            model="echo", prompt="a b c", max_tokens=400, stream=True
        )
        words.extend(chunk.choices[0].text for chunk in stream)

    reader = threading.Thread(target=read)
    reader.start()
    service.run_serve_deploy([*APPLICATIONS, application("added", "llm", "LLM")])
    listed_after_s = wait_until(lambda: "added" in service.ready(), timeout_s=30)
    wait_until(lambda: service.ready()["added"]["state"] == "ready", timeout_s=60)
    answer = service.openai().completions.create(model="added", prompt="hello")
    during = service.replica_pids()
    service.run_serve_deploy(APPLICATIONS)
    removed_after_s = wait_until(lambda: "added" not in service.ready(), timeout_s=30)
    wait_until(lambda: "added" not in service.replica_pids(), timeout_s=60)
    reader.join()

    assert answer.choices[0].text.split() == ["hello"] * 16
    assert listed_after_s < 5
    assert removed_after_s < 5
    assert {name: pids for name, pids in during.items() if name != "added"} == before
    assert service.replica_pids() == before
    assert "".join(words).split() == (["a", "b", "c"] * 134)[:400]
    with pytest.raises(openai.NotFoundError):
        service.openai().completions.create(model="added", prompt="hello")


def test_killed_replica_ends_its_streams_with_an_error_and_is_replaced(service: Service):
    (pid,) = service.replica_pids()["echo"]
    body = {"model": "echo", "prompt": "a b c", "max_tokens": 400, "stream": True}
    with service.client() as client, client.stream("POST", "/v1/completions", json=body) as r:
        events = sse_events(r.iter_lines())
        first = json.loads(next(events))
        os.kill(pid, signal.SIGKILL)
        last = list(events)[-1]
    wait_until(lambda: service.replica_pids()["echo"] not in ([], [pid]), timeout_s=60)
    wait_until(lambda: service.ready()["echo"]["state"] == "ready", timeout_s=30)

    assert first["choices"][0]["text"] == "a"
    assert json.loads(last)["error"]["code"] == "engine_unavailable"
    assert service.openai().completions.create(model="echo", prompt="x", max_tokens=1)
