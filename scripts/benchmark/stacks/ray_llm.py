"""ray.serve.llm, as a stack to compare with: in its default settings, or with direct streaming."""

import sys
from pathlib import Path
from typing import Any

import yaml

from scripts.benchmark.stacks.launch import MAX_STREAMS, ROOT, Launch, Model, StackError
from scripts.service.environment import haproxy_places

DIRECT = {
    # Source: https://docs.ray.io/en/master/serve/llm/user-guides/direct-streaming.html
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
    # Source: https://docs.ray.io/en/master/kuberay/user-guides/serve-high-throughput.html
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
}


def launch_ray_llm(
    model: Model, home: Path, env: dict[str, str], port: int, *, is_direct: bool = False
) -> Launch:
    """Write Serve's configuration, and build the command that runs it.

    Raises:
        StackError: the rig has a fake engine, which it cannot run.
    """
    if "distributed_executor_backend" in model.engine:
        # Source: ray 2.60, vllm_models.py: VLLMEngineConfig.get_initialization_kwargs
        raise StackError("it chooses vLLM's executor itself, so it cannot run a fake engine")
    config = home / "config.yaml"
    args: dict[str, Any] = {"llm_configs": [to_llm_config(model)]}
    if not is_direct:
        # The default asks for a whole CPU, too much for two cores.
        args["ingress_deployment_config"] = {"ray_actor_options": {"num_cpus": 0}}
    application = {
        "name": "llm",
        "route_prefix": "/",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": args,
    }
    http_options = {"host": "127.0.0.1", "port": port}
    content = {"http_options": http_options, "applications": [application]}
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    serve = str(Path(sys.executable).with_name("serve"))
    own = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_TMPDIR": str(home)}
    own |= {**DIRECT, **haproxy_places(home)} if is_direct else {}
    return Launch([serve, "run", str(config), "--address", "local"], ROOT, {**own, **env}, port)


def to_llm_config(model: Model) -> dict[str, Any]:
    return {
        "model_loading_config": {"model_id": model.name, "model_source": model.source},
        "engine_kwargs": model.engine,
        "deployment_config": {"num_replicas": 1, "max_ongoing_requests": MAX_STREAMS},
        # The default asks for a GPU.
        "placement_group_config": {"bundles": [{"CPU": 1}]},
        "log_engine_metrics": False,
    }
