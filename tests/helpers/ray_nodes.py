"""A Ray cluster of two nodes with different addresses on this machine, and a service on it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.helpers.service import free_port, wait_until

FIRST, SECOND = "127.0.0.2", "127.0.0.3"
BIN = Path(sys.executable).parent
KEY = "sk-two-nodes"
HEADERS = {"authorization": f"Bearer {KEY}"}


class RayNodes:
    """The cluster, and a service on it."""

    def __init__(self, folder: Path, model: dict[str, Any], *options: str) -> None:
        """Start nothing yet.

        Args:
            folder: where logs go.
            model: the application to run beside an ingress on the first node.
            options: further options of `ray start` for each node.
        """
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._model, self._node_options = model, options
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
        temporary = ["--temp-dir=/tmp/tri2"] if resource == "first" else []
        return [*options, *self._node_options, "--block", *temporary]

    def _config(self) -> dict[str, Any]:
        ingress = {
            "name": "ingress",
            "route_prefix": "/",
            "import_path": "deployments.app:ingress",
            "args": {"poll_interval_s": 1},
            "deployments": [{"name": "Ingress", "ray_actor_options": at("first")}],
        }
        # One proxy: the two nodes share the machine's ports.
        http_options = {"host": "127.0.0.1", "port": self.port, "location": "HeadOnly"}
        return {"http_options": http_options, "applications": [ingress, self._model]}

    def _start(self, name: str, program: str, *arguments: str) -> None:
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            # Serve's default is 30: a replica goes on for so long before it is replaced.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
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
            answer = httpx.get(f"{self.url}/ready", headers=HEADERS)
            return answer.status_code == 200 and self._model["name"] in answer.json()["models"]
        except (httpx.TransportError, ValueError):
            return False

    def find_processes(self, title: str) -> list[psutil.Process]:
        """Find the processes of the cluster whose command line contains the title."""
        found = []
        for root in (process for process in self._processes if process.poll() is None):
            for child in psutil.Process(root.pid).children(recursive=True):
                try:
                    if child.name() and title in " ".join(child.cmdline()):
                        found.append(child)
                except psutil.NoSuchProcess:
                    pass  # it ended meanwhile
        return found

    def listeners(self, title: str) -> set[str]:
        """IP addresses that the process with this title listens on."""
        (process,) = self.find_processes(title)
        return {
            each.laddr.ip.removeprefix("::ffff:")
            for each in process.net_connections("tcp")
            if each.status == "LISTEN"
        }

    def stop_service(self, signal: int) -> None:
        """Send a signal to `serve run`, the process that was started last, and wait for its end."""
        self._processes[-1].send_signal(signal)
        self._processes[-1].wait(60)

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
    """Return the actor options of a replica that must run on the node with this resource."""
    return {"num_cpus": 0.1, "resources": {resource: 0.1}}
