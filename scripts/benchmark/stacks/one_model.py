"""Triptych with one model, a ledger and nothing else, for the length of a block."""

import contextlib
import http.client
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scripts.benchmark.stacks.launch import KEY, ROOT, StackError
from scripts.benchmark.stacks.running import HOMES, START_S, Interrupts
from scripts.service import process_tree
from scripts.service.environment import free_ports


@contextlib.contextmanager
def serving(
    builder: str, model: dict[str, Any], env: dict[str, str], log: Path, interrupts: Interrupts
) -> Iterator[int]:
    """Start the service and yield its port once the model is ready; end it after the block.

    Raises:
        StackError: the model is not ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", dir=HOMES) as home:
        (port,) = free_ports(1)
        own = {"TRIPTYCH_HOME": home, "TRIPTYCH_API_KEYS": KEY, "RAY_AUTH_MODE": "token"}
        config = Path(home) / "config.yaml"
        config.write_text(yaml.safe_dump(to_config(builder, model, port), sort_keys=False))
        command = [
            sys.executable,
            str(ROOT / "scripts/service/run_service.py"),
            "--config",
            str(config),
        ]
        with log.open("w") as output:
            root = process_tree.start(
                command, cwd=ROOT, env={**env, **own, "PYTHONPATH": str(ROOT)}, log=output
            )
        try:
            _wait_until_ready(port, root, log)
            yield port
        finally:
            with interrupts.held():
                process_tree.end(root, interrupts.hurry)


def _wait_until_ready(port: int, root: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        process_tree.reap(root)
        if root.returncode is not None:
            break
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            connection.request("GET", "/ready")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        time.sleep(0.5)
    raise StackError(f"the service is not ready: see {log}")


def to_config(builder: str, model: dict[str, Any], port: int) -> dict[str, Any]:
    """Build a configuration with ingress, ledger and the model, as in `serve_config.yaml`."""
    applications = [
        _to_application("ingress", "ingress", {}, "/"),
        _to_application("ledger", "ledger", {}),
        _to_application(model["id"], builder, model),
    ]
    return {"http_options": {"host": "127.0.0.1", "port": port}, "applications": applications}


def _to_application(
    name: str, builder: str, args: dict[str, Any], prefix: str | None = None
) -> dict[str, Any]:
    deployment = {
        "name": builder.capitalize(),
        "num_replicas": 1,
        "ray_actor_options": {"num_cpus": 0.1},
    }
    return {
        "name": name,
        "route_prefix": prefix,
        "import_path": f"deployments.app:{builder}",
        "args": args,
        "deployments": [deployment],
    }
