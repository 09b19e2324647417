"""Keys of a running service for tests, made as an operator makes them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI

from tests.helpers.service import ROOT, Service, wait_until


def make_key(service: Service, name: str, *options: str) -> str:
    """Make a key with scripts/keys; returns when every ingress replica lets it in."""
    key = run_tool(service, "keys", "create", "--name", name, *options).strip()
    wait_until(lambda: is_let_in(service, key), timeout_s=10)
    return key


def run_tool(service: Service, tool: str, *arguments: str) -> str:
    """What `scripts/keys` or `scripts/usage` print; their set-up is left out."""
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
    """What a key gets from the ingress replicas: each call goes to another one."""
    headers = {"authorization": f"Bearer {key}"}
    return {
        httpx.get(f"{service.url}/v1/models", headers=headers).status_code for _ in range(times)
    }


def is_let_in(service: Service, key: str) -> bool:
    """Whether all ingress replicas know the key."""
    return statuses(service, key) == {200}


def client(service: Service, key: str, **options: Any) -> AsyncOpenAI:
    """OpenAI's SDK with a key, without retries so that every error shows."""
    return AsyncOpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0, **options)


def database(service: Service) -> Path:
    """The service's SQLite file."""
    return service.home / "triptych.db"
