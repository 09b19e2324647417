"""Two Ray nodes with different addresses: the model runs on one, the ingress on the other."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cluster.conftest import application
from tests.helpers.ray_nodes import FIRST, HEADERS, RayNodes, at
from tests.helpers.service import sse_events

pytestmark = pytest.mark.cluster


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[RayNodes]:
    echo = application("echo", "llm", "LLM", engine={"tokens_per_s": 200})
    echo["deployments"][0]["ray_actor_options"] = at("second")
    nodes = RayNodes(tmp_path, echo)
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.end()


def test_tokens_stream_between_nodes(nodes: RayNodes):
    body = {"model": "echo", "prompt": "a b c", "max_tokens": 50, "stream": True}
    with httpx.stream(
        "POST", f"{nodes.url}/v1/completions", json=body, headers=HEADERS, timeout=60
    ) as response:
        *chunks, done = sse_events(response.iter_lines())
    text = "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)

    assert text.split() == (["a", "b", "c"] * 17)[:50]
    assert done == "[DONE]"
    assert FIRST in nodes.listeners("ServeReplica:ingress:Ingress")
