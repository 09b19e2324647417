"""Watches a service as its other clients see it, until its standard input ends.

Asks for `/health` every 20 ms on a connection of its own, and reads one long stream after another.
Runs as a process: whoever sends hostile requests must not slow down what measures them. The last
line of its output is a `Watched` as JSON.
"""

import contextlib
import http.client
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

_INTERVAL_S = 0.02
_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Watched:
    """The longest that a client had to wait, in seconds."""

    health_s: float = 0.0
    gap_s: float = 0.0
    """Between two parts of a stream, or before its first."""
    failures: list[str] = field(default_factory=list)


def watch_health(port: int, watched: Watched, stop: threading.Event) -> None:
    """Ask for `/health` until `stop`; a new connection each time, as a prober's."""
    while not stop.wait(_INTERVAL_S):
        began_s = time.perf_counter()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
            with contextlib.closing(connection):
                connection.request("GET", "/health")
                status = connection.getresponse().status
            if status != http.HTTPStatus.OK:
                watched.failures.append(f"/health {status}")
        except (OSError, http.client.HTTPException) as error:
            watched.failures.append(f"/health {type(error).__name__}")
        watched.health_s = max(watched.health_s, time.perf_counter() - began_s)


def watch_streams(
    port: int,
    headers: dict[str, str],
    body: dict[str, Any],
    watched: Watched,
    stop: threading.Event,
) -> None:
    """Read streams until `stop`."""
    while not stop.is_set():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        try:
            with contextlib.closing(connection):
                _read_stream(connection, headers, body, watched, stop)
        except (OSError, http.client.HTTPException) as error:
            watched.failures.append(f"stream {type(error).__name__}")


def _read_stream(
    connection: http.client.HTTPConnection,
    headers: dict[str, str],
    body: dict[str, Any],
    watched: Watched,
    stop: threading.Event,
) -> None:
    last_s = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        watched.failures.append(f"stream {response.status}")
        return
    while response.readline():
        now_s = time.perf_counter()
        watched.gap_s = max(watched.gap_s, now_s - last_s)
        last_s = now_s
        if stop.is_set():
            return


def main() -> None:
    """Watch the service at the port, key and model of the command line."""
    port, key, model = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    message = {"role": "user", "content": "Count from one to one thousand."}
    body = {"model": model, "messages": [message], "max_tokens": 400, "stream": True}
    watched, stop = Watched(), threading.Event()
    threads = [
        threading.Thread(target=watch_health, args=(port, watched, stop)),
        threading.Thread(target=watch_streams, args=(port, headers, body, watched, stop)),
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps(asdict(watched)))


if __name__ == "__main__":
    main()
