"""LiteLLM's proxy in front of vLLM's own server, as a stack to compare with.

    litellm        virtual keys on PostgreSQL: a key with limits and a budget, spend is recorded
    litellm-no-db  the same limits given by its `custom_auth` hook, counted in memory; no database
                   and no record of requests, so it does less than LiteLLM with keys

The processes are started by service.py: PostgreSQL, vLLM, LiteLLM.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from deployments.home import find_home
from scripts.benchmark.stacks.launch import KEY, ROOT, Launch, Model
from scripts.benchmark.stacks.litellm_proxy.environment import prepare_litellm
from scripts.benchmark.stacks.vllm_server import launch_vllm
from scripts.service.environment import free_ports

MASTER_KEY = "sk-benchmark-master"  # not secret, as KEY is not
VIRTUAL_KEY = "sk-benchmark-virtual"
ENOUGH = 1_000_000_000
LIMITS = {"rpm_limit": ENOUGH, "tpm_limit": ENOUGH, "max_parallel_requests": 100_000}
"""Each is counted, none is reached."""

PRODUCTION = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "USE_PRISMA_MIGRATE": "True",
    # Not in the guide: nothing is fetched when it starts, and none of these is on the request path.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "NO_DOCS": "True",
}
"""As its guide for production has it. Source: https://docs.litellm.ai/docs/proxy/prod, 2026-10."""

WORKERS = 1
"""The guide: one Uvicorn worker in each pod of 2 cores. More would need Redis for exact limits, and
here they would share two cores with vLLM."""


def launch_litellm(
    model: Model, home: Path, env: dict[str, str], port: int, *, has_database: bool = True
) -> Launch:
    """Write the configuration of the processes, and build the command that starts them all.

    Raises:
        StackError: LiteLLM cannot be installed.
    """
    litellm = prepare_litellm(find_home().resolve() / "bench")
    if has_database:
        litellm.prepare_database()
    home.chmod(0o711)  # PostgreSQL's user must get to its folder below
    vllm = launch_vllm(model, env, free_ports(1)[0])
    config = home / "litellm.yaml"
    config.write_text(yaml.safe_dump(to_config(model, vllm.port, has_database=has_database)))
    (home / "bench_auth.py").write_text(Path(__file__).with_name("bench_auth.py").read_text())
    command = [str(litellm.program), "--config", str(config), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", str(WORKERS)]
    plan = {
        "vllm": {"command": vllm.command, "env": {}},
        "litellm": {"command": command, "env": {**litellm.variables, **PRODUCTION}},
        "port": port,
        "postgres": str(home / "postgres") if has_database else None,
        "master_key": MASTER_KEY,
        "key": {"key": VIRTUAL_KEY, "models": [model.name], "max_budget": ENOUGH, **LIMITS},
    }
    (home / "plan.json").write_text(json.dumps(plan))
    service = [sys.executable, "-m", "scripts.benchmark.stacks.litellm_proxy.service"]
    return Launch([*service, str(home / "plan.json")], ROOT, env, port, VIRTUAL_KEY)


def to_config(model: Model, vllm_port: int, *, has_database: bool) -> dict[str, Any]:
    """Build LiteLLM's configuration, as its guide for production has it."""
    upstream = {
        "model": f"hosted_vllm/{model.name}",
        "api_base": f"http://127.0.0.1:{vllm_port}/v1",
        "api_key": KEY,
    }
    general: dict[str, Any] = {"master_key": MASTER_KEY}
    if has_database:
        general |= {
            "database_url": "os.environ/DATABASE_URL",
            "proxy_batch_write_at": 60,
            "database_connection_pool_limit": 10,
            "disable_error_logs": True,
        }
    else:
        general |= {"custom_auth": "bench_auth.authenticate"}
    return {
        "model_list": [{"model_name": model.name, "litellm_params": upstream}],
        "general_settings": general,
        "litellm_settings": {"request_timeout": 600, "set_verbose": False, "json_logs": True},
    }
