"""vLLM's own server, as a stack to compare with and behind other stacks."""

import sys

from scripts.benchmark.stacks.launch import KEY, ROOT, Launch, Model, to_flags


def launch_vllm(model: Model, env: dict[str, str], port: int) -> Launch:
    """Build the command of the server, with its access log off."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", KEY]
    command += ["--model", model.source, "--served-model-name", model.name]
    command += ["--disable-uvicorn-access-log", *to_flags(model.engine)]
    return Launch(command, ROOT, env, port)
