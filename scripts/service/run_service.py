"""Runs `serve run` with one configuration, shows its models load, and ends all that it started.

`triptych serve` starts it. Several services can run on one machine: each has its own home
(TRIPTYCH_HOME), its own folder for Ray and HAProxy, and its own ports.
"""

import contextlib
import fcntl
import http.client
import json
import os
import re
import secrets
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, TextIO

import cpu_affinity
import process_tree
import psutil
import yaml
from environment import PreparationError, environment
from ray_watch import RayWatch
from serve_options import ROOT, to_parser

from deployments.home import DRAIN_FOLDER

HOME = Path(os.environ.get("TRIPTYCH_HOME") or ROOT / ".triptych").resolve()
LOG = HOME / "logs" / "serve.log"
KEY_FILE = HOME / "api_key"
RUN = HOME / "run"
SERVE = Path(sys.executable).parent / "serve"

DRAIN = HOME / DRAIN_FOLDER

POLL_S, HEARTBEAT_S = 1.0, 10.0
DRAIN_POLL_S, DRAIN_NOTICED_S = 0.1, 0.8
LAST_EVENTS_S = 2.0
"""For the error events of requests that have had no time to finish."""
DONE = ("ready", "failed", "idle")
RESTARTS, RESTARTS_IN_S = 3, 600.0

End = Literal["signal", "child", "ray"]
"""What ended the service: a signal, `serve run` itself, or the death of Ray."""


class StartupError(Exception):
    """The service cannot be started; the message says why."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service listens."""

    host: str
    port: int

    @property
    def reachable_host(self) -> str:
        """The host to connect to; another one if the service listens on every interface."""
        return "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host

    @property
    def url(self) -> str:
        """The base URL, without a path."""
        return f"http://{self.reachable_host}:{self.port}"


@dataclass(slots=True)
class Progress:
    """The states of the models as printed so far, so that each change is printed once."""

    started: float = field(default_factory=time.monotonic)
    printed: float = field(default_factory=time.monotonic)
    states: dict[str, str] = field(default_factory=dict)

    def show(self, models: dict[str, dict[str, Any]]) -> None:
        """Print a line for each change, and one after every 10 s without a change."""
        for model, status in models.items():
            if self.states.get(model) != status["state"]:
                self.states[model] = status["state"]
                is_telling = status.get("message") and status["state"] != "starting"
                reason = f": {status['message']}" if is_telling else ""
                self._say(f"{model} is {status['state']}{reason}")
        if time.monotonic() - self.printed >= HEARTBEAT_S:
            waiting = [model for model, state in self.states.items() if state not in DONE]
            self._say(f"waiting for {', '.join(waiting) or 'the ingress'}")

    def _say(self, text: str) -> None:
        self.printed = time.monotonic()
        say(f"{self.printed - self.started:4.0f} s  {text}")


def main() -> int:
    options = to_parser().parse_args()
    signals = wake_on_signals()
    try:
        prepare_home()
        with lock_home() as state:
            end_leftovers(state)
            config, address = prepare_config(options.config.resolve(), options.port)
            make_key()
            return keep_running(lambda: run(config, address, state, signals, options.drain))
    except (StartupError, PreparationError) as error:
        print(f"scripts/serve: {error}", file=sys.stderr)
        return 1


def keep_running(run: Callable[[], int | None]) -> int:
    """Run the service again each time that Ray has died, but not again and again."""
    started_s: list[float] = []
    while (status := run()) is None:
        now_s = time.monotonic()
        started_s = [each_s for each_s in started_s if now_s - each_s < RESTARTS_IN_S]
        if len(started_s) >= RESTARTS:
            print("scripts/serve: Ray has died too often", file=sys.stderr)
            return 1
        started_s.append(now_s)
    return status


def run(config: Path, address: Address, state: TextIO, signals: int, drain_s: float) -> int | None:
    """Run the service until a signal, or until it ends by itself; None if it is to run again."""
    if LOG.exists():
        LOG.replace(LOG.with_suffix(".log.1"))
    command = [str(SERVE), "run", str(config), "--address", "local"]
    own = environment(HOME)
    with LOG.open("w") as log:
        child = process_tree.start(command, cwd=ROOT, env=own, log=log)
    remember(state, child.pid)
    say(f"starting Ray Serve with {config}; its log: {LOG}")
    try:
        end = watch(child, address, signals)
        if end == "signal":
            drain(child, signals, drain_s)
        elif end == "ray":
            process_tree.kill(process_tree.descendants())  # they would wait for Ray
    finally:
        say("stopping")
        process_tree.end(child, signals)
        shutil.rmtree(own["TMPDIR"], ignore_errors=True)
        shutil.rmtree(DRAIN, ignore_errors=True)
    if end == "signal":
        say("stopped")
        return 0
    if end == "ray":
        return None
    print(f"scripts/serve: serve run ended by itself, status {child.returncode}:", file=sys.stderr)
    print("".join(LOG.read_text(errors="replace").splitlines(True)[-15:]), file=sys.stderr)
    return 1


def watch(child: subprocess.Popen[bytes], address: Address, signals: int) -> End:
    """Show the models load, then wait; return what ended that."""
    progress, is_announced, affinity = Progress(), False, cpu_affinity.AffinityKeeper(child.pid)
    ray = RayWatch(psutil.Process(child.pid))
    lines = log_lines()
    while not select.select([signals], [], [], POLL_S)[0]:
        process_tree.reap(child)
        if child.returncode is not None:
            return "child"
        if dead := ray.find_dead():
            say(f"Ray's {dead} has died: starting again")
            return "ray"
        show_problems(lines)
        if is_announced:
            affinity.update()
            continue
        models = readiness(address)
        progress.show(models or {})
        if models is not None and all(status["state"] in DONE for status in models.values()):
            announce(address, models)
            is_announced = True
    os.read(signals, 64)
    return "signal"


def show_problems(lines: Iterator[str]) -> None:
    """Print what is wrong by the lines of the log that are new."""
    for line in lines:
        if not line:
            break
        if re.search(r"\bERROR\b|Traceback|\btriptych:", line):
            say(f"log: {line[:300]}")


def drain(child: subprocess.Popen[bytes], signals: int, drain_s: float) -> None:
    """Let requests under way finish, and refuse new ones, until a second signal."""
    DRAIN.mkdir(exist_ok=True)
    draft = DRAIN / "draft"
    draft.write_text(str(time.time() + drain_s))
    draft.rename(DRAIN / "until")
    started, is_announced = time.monotonic(), False
    while time.monotonic() < started + drain_s + LAST_EVENTS_S:
        if select.select([signals], [], [], DRAIN_POLL_S)[0]:
            os.read(signals, 64)
            return
        process_tree.reap(child)
        requests = open_requests()
        if child.returncode is not None or (
            not requests and time.monotonic() > started + DRAIN_NOTICED_S
        ):
            return
        if requests and not is_announced:
            say(f"requests under way: {requests}; they have {drain_s:g} s; Ctrl-C ends them now")
            is_announced = True


def open_requests() -> int:
    """Add up what the ingress replicas say; those that are not up yet have no requests."""
    total = 0
    for path in DRAIN.glob("*.requests"):
        with contextlib.suppress(OSError, ValueError):  # it is being written
            total += int(path.read_text() or 1)
    return total


def readiness(address: Address) -> dict[str, dict[str, Any]] | None:
    """Read GET /ready: the models by id; None while the ingress is not up."""
    connection = http.client.HTTPConnection(address.reachable_host, address.port, timeout=2)
    try:
        connection.request("GET", "/ready", headers={"authorization": f"Bearer {read_key()}"})
        response = connection.getresponse()
        models = json.loads(response.read())["models"]
        is_known = isinstance(models, dict) and (models or response.status == HTTPStatus.OK)
        return models if is_known else None
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return None
    finally:
        connection.close()


def announce(address: Address, models: dict[str, dict[str, Any]]) -> None:
    """Print where the service is, and a request to paste into a shell."""
    failed = [model for model, status in models.items() if status["state"] == "failed"]
    if os.environ.get("TRIPTYCH_API_KEYS"):
        key, where = "${TRIPTYCH_API_KEYS%%,*}", "in TRIPTYCH_API_KEYS"
    else:
        key, where = f"$(cat {shlex.quote(str(KEY_FILE))})", str(KEY_FILE)
    call = f'curl {address.url}/v1/models -H "Authorization: Bearer {key}"'
    for model, status in models.items():
        if status["kind"] == "llm" and status["state"] == "ready":
            question = {"role": "user", "content": "What is the capital of France?"}
            body = json.dumps({"model": model, "messages": [question], "temperature": 0})
            call = (
                f'curl {address.url}/v1/chat/completions -H "Authorization: Bearer {key}" '
                f"-H 'Content-Type: application/json' -d {shlex.quote(body)}"
            )
            break
    say(f"ready, except for {', '.join(failed)}" if failed else "ready")
    print(f"\n  base URL  {address.url}/v1\n  API key   {where}\n")
    if dashboard := re.search(r"dashboard at \D*(http://\S+:\d+)", plain(LOG.read_text())):
        print(f"  serve status --address {dashboard[1]}     (after: source .venv/bin/activate)\n")
    print(f"  {call}\n\nCtrl-C ends it.", flush=True)


def prepare_config(config: Path, port: int | None) -> tuple[Path, Address]:
    """Check the configuration and that its port is free; with `port`, change it in a copy."""
    if not config.is_file():
        raise StartupError(f"the configuration {config} does not exist")
    check = subprocess.run([sys.executable, "-m", "deployments.check", str(config)], cwd=ROOT)
    if check.returncode:
        raise StartupError(f"{config} has the problems above; nothing was started")
    content = yaml.safe_load(config.read_text())
    http_options = content.setdefault("http_options", {})
    if port is not None:
        http_options["port"] = port
        config = RUN / config.name
        config.write_text(yaml.safe_dump(content, sort_keys=False))
    address = Address(http_options.get("host", "0.0.0.0"), http_options.get("port", 8000))
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except (OSError, OverflowError) as error:
            raise StartupError(
                f"cannot listen at {address.host}:{address.port}: {error}; choose with --port N"
            ) from None
    return config, address


def prepare_home() -> None:
    """Make the home's folders, and check that they can be written."""
    try:
        for folder in (HOME, RUN, LOG.parent):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"room")
    except OSError as error:
        raise StartupError(
            f"the home folder {HOME} must be writable and have room (keys, usage and logs are kept "
            f"there): {error.strerror}; set TRIPTYCH_HOME to another one"
        ) from None


def make_key() -> None:
    """Make an API key, unless the home has one or the environment has keys."""
    if os.environ.get("TRIPTYCH_API_KEYS") or KEY_FILE.exists():
        return
    file = os.open(KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(file, "w") as key_file:
        key_file.write(f"sk-triptych-{secrets.token_urlsafe(32)}\n")
    say(f"made an API key: {KEY_FILE}")


def read_key() -> str:
    """Read a key that the service knows from its start."""
    return (
        (os.environ.get("TRIPTYCH_API_KEYS") or KEY_FILE.read_text()).replace(",", " ").split()[0]
    )


def lock_home() -> TextIO:
    """Lock the home's state file, which names the child for the first start after a crash."""
    state = (RUN / "serve.state").open("a+")
    try:
        fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartupError(f"another service runs with {HOME}") from None
    return state


def remember(state: TextIO, child_pid: int) -> None:
    state.truncate(0)
    state.write(f"{child_pid} {psutil.boot_time():.0f}\n")
    state.flush()


def end_leftovers(state: TextIO) -> None:
    """End the processes that a killed run left: those in its child's session."""
    state.seek(0)
    match state.read().split():
        case [session, boot] if abs(float(boot) - psutil.boot_time()) < 60:
            if count := process_tree.end_session(int(session), ROOT):
                say(f"ended {count} processes that an earlier run left")


def wake_on_signals() -> int:
    """Return a pipe that becomes readable on SIGINT, SIGTERM or SIGHUP."""
    readable, writable = os.pipe()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(writable, b"."))
    return readable


def log_lines() -> Iterator[str]:
    """Yield the lines of the log; an empty one while there is no further line."""
    with LOG.open(errors="replace") as log:
        part = ""
        while True:
            part += log.readline()
            if part.endswith("\n"):
                yield plain(part).rstrip() or " "
                part = ""
            else:
                yield ""


def plain(text: str) -> str:
    """Remove the terminal's colour codes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def say(text: str) -> None:
    print(f"[triptych] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
