"""The compared stacks: how each is started.

    vllm            vLLM's own server, with its access log off
    vllm-rs         the same with vLLM's Rust front-end
    triptych        this checkout (or another one), as scripts/serve starts it; its key has limits
    litellm         LiteLLM's proxy with keys and limits in front of `vllm`
    litellm-no-db   the same without its database (litellm_proxy/launch.py)
    ray-llm         ray.serve.llm with its default settings
    ray-llm-direct  the same with direct streaming

Each runs the rig's model with its engine options and environment, one stack at a time.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deployments.home import find_home
from scripts.benchmark.stacks.launch import KEY, MAX_STREAMS, ROOT, Launch, Model, with_path
from scripts.benchmark.stacks.litellm_proxy.launch import launch_litellm
from scripts.benchmark.stacks.ray_llm import launch_ray_llm
from scripts.benchmark.stacks.rigs import ENVIRONMENT, FAKE_ENGINE_PATH
from scripts.benchmark.stacks.rust_frontend import launch_rust_frontend
from scripts.benchmark.stacks.vllm_server import launch_vllm

ENOUGH = "1000000000"
LIMITS = ("--rpm", ENOUGH, "--tpm", ENOUGH, "--concurrency", "100000", "--tokens-per-day", ENOUGH)
"""Limits of Triptych's key: each is counted, none is reached."""
OUR_ENVIRONMENT = ("PYTHONPATH", "TRIPTYCH_API_KEYS", "TRIPTYCH_HOME", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class Stack:
    """One of the compared stacks."""

    name: str
    kind: str = "triptych"
    env: dict[str, str] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    checkout: Path = ROOT
    ingress_replicas: int = 1
    has_tenancy: bool = True
    """A key with limits and a record of each request; else a key of the environment, no records."""

    def launch(self, model: Model, home: Path, port: int) -> Launch:
        """Build the command and its configuration file in `home`, an empty folder."""
        model = Model(model.name, model.source, {**model.engine, **self.engine})
        inherited = {key: value for key, value in os.environ.items() if key not in OUR_ENVIRONMENT}
        env = with_path({**inherited, **ENVIRONMENT, **self.env}, FAKE_ENGINE_PATH)
        match self.kind:
            case "vllm":
                return launch_vllm(model, env, port)
            case "vllm-rs":
                return launch_rust_frontend(model, find_home().resolve(), env, port)
            case "litellm" | "litellm-no-db":
                has_database = self.kind == "litellm"
                return launch_litellm(model, home, env, port, has_database=has_database)
            case "ray-llm" | "ray-llm-direct":
                is_direct = self.kind == "ray-llm-direct"
                return launch_ray_llm(model, home, env, port, is_direct=is_direct)
        return self._launch_triptych(model, home, env, port)

    def _launch_triptych(self, model: Model, home: Path, env: dict[str, str], port: int) -> Launch:
        env |= {"TRIPTYCH_HOME": str(home), "TRIPTYCH_API_KEYS": KEY, "RAY_AUTH_MODE": "token"}
        if self.checkout != ROOT:
            env = with_path(env, self.checkout)
        config = home / "config.yaml"
        config.write_text(yaml.safe_dump(self._to_config(model, port), sort_keys=False))
        program = _service_program(self.checkout)
        command = [sys.executable, str(program), "--config", str(config)]
        key = _make_key(env) if self.has_tenancy else KEY
        return Launch(command, self.checkout, env, port, key)

    def describe(self) -> dict[str, Any]:
        """Describe the stack for the report."""
        return {
            "name": self.name,
            "kind": self.kind,
            "env": self.env,
            "engine": self.engine,
            "checkout": "" if self.checkout == ROOT else str(self.checkout),
            "ingress_replicas": self.ingress_replicas,
            "has_tenancy": self.has_tenancy,
        }

    def _to_config(self, model: Model, port: int) -> dict[str, Any]:
        ingress = {
            "name": "ingress",
            "route_prefix": "/",
            "import_path": "deployments.app:ingress",
            "args": {},
            "deployments": [
                {
                    "name": "Ingress",
                    "num_replicas": self.ingress_replicas,
                    "max_ongoing_requests": MAX_STREAMS,
                    "ray_actor_options": {"num_cpus": 0.1},
                }
            ],
        }
        llm = {
            "name": model.name,
            "route_prefix": None,
            "import_path": "deployments.app:llm",
            "args": {"id": model.name, "source": model.source, "engine": model.engine},
            "deployments": [
                {
                    "name": "LLM",
                    "num_replicas": 1,
                    "max_ongoing_requests": MAX_STREAMS,
                    "ray_actor_options": {"num_cpus": 0.3},
                }
            ],
        }
        ledger = {
            "name": "ledger",
            "route_prefix": None,
            "import_path": "deployments.app:ledger",
            "args": {},
            "deployments": [{"name": "Ledger", "ray_actor_options": {"num_cpus": 0.1}}],
        }
        applications = [ingress, llm, *([ledger] if self.has_tenancy else [])]
        return {"http_options": {"host": "127.0.0.1", "port": port}, "applications": applications}


def _service_program(checkout: Path) -> Path:
    """Find the program that runs the service; older checkouts have it one folder higher.

    Raises:
        ValueError: the folder is not a checkout.
    """
    for place in ("scripts/service/run_service.py", "scripts/run_service.py"):
        if (checkout / place).is_file():
            return checkout / place
    raise ValueError(f"{checkout} is not a checkout: it has no scripts/service/run_service.py")


def _make_key(env: dict[str, str]) -> str:
    command = [sys.executable, "-m", "deployments.cli.keys", "create", "--name", "bench", *LIMITS]
    run = subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return run.stdout.strip()


def to_variant(text: str, env: dict[str, str], ingress_replicas: int) -> Stack:
    """Build a Triptych stack from `NAME:KEY=VALUE,…`; see `--variant` for the keys.

    Raises:
        ValueError: the text has another form, or the checkout is none.
    """
    name, _, rest = text.partition(":")
    pairs = [pair.partition("=") for pair in rest.split(",") if pair]
    if not name or not pairs or not all(key and equals for key, equals, _ in pairs):
        raise ValueError(f"{text!r} is not NAME:KEY=VALUE,KEY=VALUE")
    values = {key: value for key, _, value in pairs}
    checkout = Path(values.pop("checkout", ROOT)).expanduser().resolve()
    _service_program(checkout)  # fail before anything is started
    replicas = int(values.pop("ingress_replicas", ingress_replicas))
    has_tenancy = values.pop("tenancy", "on") == "on"
    engine = {
        key.removeprefix("engine."): yaml.safe_load(values.pop(key))
        for key in list(values)
        if key.startswith("engine.")
    }
    return Stack(name, "triptych", {**env, **values}, engine, checkout, replicas, has_tenancy)
