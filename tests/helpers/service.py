"""A real service for tests: started like `scripts/serve`, stopped by pid, called over HTTP."""

import collections
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from openai import OpenAI

from scripts.service.environment import free_ports

ROOT = Path(__file__).resolve().parents[2]
SERVE = Path(sys.executable).with_name("serve")
Counts = dict[str, int]
_NONZERO_AT_REST = {"pid", "tasks", "sockets", "dropped", "clients", "sessions"}
AUTH_TOKEN = Path.home() / ".ray" / "auth_token"  # made by Ray when a local cluster first starts


class Service:
    """A running service, with the facts that tests need."""

    def __init__(self, config: dict[str, Any], home: Path, *options: str) -> None:
        """Start the service with further options of `scripts/serve`; returns once it is ready."""
        self.home = home
        self.port = free_port()
        self.config = {**config, "http_options": {"host": "127.0.0.1", "port": self.port}}
        self.output = home / "output.txt"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    ROOT / "scripts/service/run_service.py",
                    "--config",
                    self.write_config(),
                    *options,
                ],
                env={**os.environ, "TRIPTYCH_HOME": str(home), "RAY_AUTH_MODE": "token"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._is_announced, timeout_s=240)
        self.key = (home / "api_key").read_text().strip()
        self.url = f"http://127.0.0.1:{self.port}"
        dashboard = re.search(r"--address (http\S+)", self.output.read_text())
        assert dashboard, self.output.read_text()
        self.dashboard = dashboard[1]

    def _is_announced(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        return "Ctrl-C ends it." in self.output.read_text()

    def write_config(self) -> Path:
        """Write the current configuration to a file."""
        path = self.home / "config.yaml"
        path.write_text(yaml.safe_dump(self.config, sort_keys=False))
        return path

    def deploy(self, applications: list[dict[str, Any]]) -> None:
        """Deploy other applications, as `serve deploy` would.

        That command takes 3 s more of a core; `test_lifecycle.py` runs it.
        """
        self.config = {**self.config, "applications": applications}
        answer = httpx.put(
            f"{self.dashboard}/api/serve/applications/",
            json=self.config,
            headers=self._dashboard_headers(),
            timeout=60,
        )
        answer.raise_for_status()

    def run_serve_deploy(self, applications: list[dict[str, Any]]) -> None:
        """Run `serve deploy` with other applications."""
        self.config = {**self.config, "applications": applications}
        command = [SERVE, "deploy", "--address", self.dashboard, self.write_config()]
        subprocess.run(
            command,
            check=True,
            env={**os.environ, "RAY_AUTH_MODE": "token"},
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    def client(self, timeout_s: float = 120) -> httpx.Client:
        """An HTTP client that sends the key."""
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s)

    def openai(self) -> OpenAI:
        """The official SDK, without retries."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def ready(self) -> dict[str, Any]:
        """State of each model, from `/ready`."""
        with self.client() as client:
            models: dict[str, Any] = client.get("/ready").json()["models"]
        return models

    def usage(self) -> tuple[int, int]:
        """Requests and completion tokens that have been recorded."""
        with self.client() as client:
            rows = client.get("/v1/usage?group_by=kind").json()["data"]
        return sum(row["requests"] for row in rows), sum(row["completion_tokens"] for row in rows)

    def applications(self) -> dict[str, Any]:
        """Details of each application, from Serve's REST API."""
        url = f"{self.dashboard}/api/serve/applications/"
        answer = httpx.get(url, headers=self._dashboard_headers(), timeout=30)
        applications: dict[str, Any] = answer.json()["applications"]
        return applications

    def _dashboard_headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {AUTH_TOKEN.read_text().strip()}"}

    def replica_pids(self) -> dict[str, list[int]]:
        """Pids of the running replicas of each application."""
        return {
            name: sorted(
                replica["pid"]
                for deployment in application["deployments"].values()
                for replica in deployment["replicas"]
                if replica["state"] == "RUNNING"
            )
            for name, application in self.applications().items()
        }

    @contextlib.contextmanager
    def watching(self, *applications: str) -> Iterator[Callable[[], dict[str, list[Counts]]]]:
        """Yield a function that returns the latest `stats()` of each replica, by application.

        A separate driver process asks every replica ten times per second.
        """
        (port_file,) = self.run_time_folder().glob("ray/session_latest/gcs_server_port_*")
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
        script = Path(__file__).with_name("count_driver.py")
        command = [sys.executable, script, port_file.read_text(), *applications]
        driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        results: collections.deque[dict[str, list[Counts]]] = collections.deque(maxlen=1)
        assert driver.stdout
        lines = driver.stdout
        reader = threading.Thread(
            target=lambda: results.extend(json.loads(line) for line in lines), daemon=True
        )
        reader.start()
        try:
            wait_until(lambda: len(results) > 0, timeout_s=60)
            yield lambda: results[0]
        finally:
            driver.kill()
            driver.wait()
            reader.join()

    def run_time_folder(self) -> Path:
        """Where this service's Ray keeps its files."""
        link = (self.home / "logs" / "ray").readlink()
        return next(parent for parent in link.parents if parent.name.startswith("triptych-"))

    def processes(self) -> list[psutil.Process]:
        """The service's process and all its descendants."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def stop(self, timeout_s: float = 40) -> list[str]:
        """Stop by SIGTERM; kill what is left after the timeout, and return its description."""
        if self.process.poll() is not None:
            return []
        processes = self.processes()
        self.process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout_s)
        left = [str(process) for process in alive]
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        temporary = self.run_time_folder() / "tmp"
        return left + [str(path) for path in [temporary, *temporary.glob("*")] if path.exists()]


def is_at_rest(replica: Counts) -> bool:
    """Whether all counts of open requests, streams, reservations and records are zero."""
    return not any(count for name, count in replica.items() if name not in _NONZERO_AT_REST)


def requests_in(replicas: list[Counts]) -> list[int]:
    """Requests in flight at each replica that has answered in time."""
    return [replica["requests"] for replica in replicas]


@contextlib.contextmanager
def running(config: dict[str, Any], home: Path, *options: str) -> Iterator[Service]:
    """Run a service during the block; it must leave no process and no temporary file."""
    service, left = Service.__new__(Service), list[str]()
    try:
        service.__init__(config, home, *options)  # type: ignore[misc]  # so that a failed start is cleaned up too
        yield service
    finally:
        if hasattr(service, "process"):
            left = service.stop()
            shutil.rmtree(service.run_time_folder(), ignore_errors=True)
    assert not left, left


def wait_until(is_true: Callable[[], bool], timeout_s: float) -> float:
    """Wait until a condition holds; returns the seconds it took."""
    started = time.monotonic()
    while not is_true():
        waited_s = time.monotonic() - started
        assert waited_s < timeout_s, f"not true after {timeout_s} s"
        time.sleep(0.1)
    return time.monotonic() - started


def free_port() -> int:
    """A free TCP port."""
    return free_ports(1)[0]


def sse_events(lines: Iterator[str]) -> Iterator[str]:
    """The payloads of an event stream."""
    for line in lines:
        if line.startswith("data: "):
            yield line.removeprefix("data: ")
