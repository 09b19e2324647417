"""Two Ray nodes with different addresses: the model runs on one, the ingress on the other."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.cluster.conftest import application
from tests.helpers.service import free_port, sse_events, wait_until

pytestmark = pytest.mark.cluster

FIRST, SECOND = "127.0.0.2", "127.0.0.3"
BIN = Path(sys.executable).parent
KEY = "sk-two-nodes"


class Nodes:
    """The cluster, and a service on it."""

    def __init__(self, folder: Path) -> None:
        """Start nothing yet."""
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start both nodes, then the service; returns once the service is ready."""
        gcs = f"{FIRST}:{free_port()}"
        head = ["--head", f"--port={gcs.partition(':')[2]}", "--include-dashboard=false"]
        self._start("head", "ray", "start", *head, *self._options(FIRST, "first"))
        wait_until(lambda: "block forever" in self._log("head"), timeout_s=60)
        self._start("second", "ray", "start", f"--address={gcs}", *self._options(SECOND, "second"))
        wait_until(lambda: "block forever" in self._log("second"), timeout_s=60)
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        self._start("serve", "serve", "run", str(config), "--address", gcs)
        wait_until(self._is_ready, timeout_s=120)

    def _options(self, address: str, resource: str) -> list[str]:
        resources = json.dumps({resource: 1})
        options = [f"--node-ip-address={address}", "--num-cpus=2", f"--resources={resources}"]
        # Ray puts its sockets there, and a socket path must not exceed 107 characters.
        return [*options, "--block", *(["--temp-dir=/tmp/tri2"] if resource == "first" else [])]

    def _config(self) -> dict[str, Any]:
        ingress = {
            "name": "ingress",
            "route_prefix": "/",
            "import_path": "deployments.app:ingress",
            "args": {"poll_interval_s": 1},
            "deployments": [{"name": "Ingress", "ray_actor_options": at("first")}],
        }
        echo = application("echo", "llm", "LLM", engine={"tokens_per_s": 200})
        echo["deployments"][0]["ray_actor_options"] = at("second")
        # One proxy: the two nodes share the machine's ports.
        http_options = {"host": "127.0.0.1", "port": self.port, "location": "HeadOnly"}
        return {"http_options": http_options, "applications": [ingress, echo]}

    def _start(self, name: str, program: str, *arguments: str) -> None:
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "TRIPTYCH_API_KEYS": KEY,
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        }
        with (self.folder / f"{name}.log").open("w") as log:
            command = [str(BIN / program), *arguments]
            self._processes.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            )

    def _log(self, name: str) -> str:
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        assert self._processes[-1].poll() is None, text
        return text

    def _is_ready(self) -> bool:
        self._log("serve")
        try:
            answer = httpx.get(f"{self.url}/ready")
            return answer.status_code == 200 and "echo" in answer.json()["models"]
        except (httpx.TransportError, ValueError):
            return False

    def listeners(self, title: str) -> set[str]:
        """IP addresses that the process with this title listens on."""
        (process,) = [
            child
            for root in self._processes
            for child in psutil.Process(root.pid).children(recursive=True)
            if child.name() and title in " ".join(child.cmdline())
        ]
        return {each.laddr.ip for each in process.net_connections("tcp") if each.status == "LISTEN"}

    def end(self) -> None:
        """Kill every process by its pid: a node would drain for 30 s otherwise."""
        trees = [
            [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for process in reversed(self._processes)
            if process.poll() is None
        ]
        for process in (process for tree in trees for process in tree):
            if process.is_running():
                process.kill()
        for process in self._processes:
            process.wait(20)


def at(resource: str) -> dict[str, Any]:
    return {"num_cpus": 0.1, "resources": {resource: 0.1}}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path)
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.end()


def test_tokens_stream_between_nodes(nodes: Nodes):
    body = {"model": "echo", "prompt": "a b c", "max_tokens": 50, "stream": True}
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.stream(
        "POST", f"{nodes.url}/v1/completions", json=body, headers=headers, timeout=60
    ) as response:
        *chunks, done = sse_events(response.iter_lines())
    text = "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)

    assert text.split() == (["a", "b", "c"] * 17)[:50]
    assert done == "[DONE]"
    assert FIRST in nodes.listeners("ServeReplica:ingress:Ingress")
