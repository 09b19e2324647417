"""Keys of a running service, made with the command line as an operator makes them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI

from tests.helpers.service import ROOT, Service, wait_until


def make_key(service: Service, name: str, *options: str) -> str:
    """Make a key with `triptych keys`; returns when every ingress replica accepts it."""
    key = run_tool(service, "keys", "create", "--name", name, *options).strip()
    wait_until(lambda: is_accepted(service, key), timeout_s=10)
    return key


def run_tool(service: Service, tool: str, *arguments: str) -> str:
    """Run `triptych keys` or `triptych usage` against the service's home; returns its stdout."""
    run = subprocess.run(
        [sys.executable, "-m", f"deployments.cli.{tool}", *arguments],
        cwd=ROOT,
        env={**os.environ, "TRIPTYCH_HOME": str(service.home)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return run.stdout


def statuses(service: Service, key: str, times: int = 12) -> set[int]:
    """The HTTP statuses that a key gets; successive calls go to different ingress replicas."""
    headers = {"authorization": f"Bearer {key}"}
    return {
        httpx.get(f"{service.url}/v1/models", headers=headers).status_code for _ in range(times)
    }


def is_accepted(service: Service, key: str) -> bool:
    """Whether all ingress replicas accept the key."""
    return statuses(service, key) == {200}


def is_refused(service: Service, key: str) -> bool:
    """Whether all ingress replicas refuse the key; after many refusals the status is 429."""
    return statuses(service, key) <= {401, 429}


def client(service: Service, key: str, **options: Any) -> AsyncOpenAI:
    """OpenAI's SDK with a key, without retries so that tests see every error."""
    return AsyncOpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0, **options)


def database(service: Service) -> Path:
    """The service's SQLite file."""
    return service.home / "triptych.db"
