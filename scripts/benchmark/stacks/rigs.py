"""The rigs of the benchmark: a model, the engine options of all stacks, and the load.

serving   two random layers (tiny_llama.py): serving limits the rate
requests  the same model, one token for each request: tokens are requests, and the cost is theirs
prefill   the same with prompts of 1,000 tokens; prefill-cached: the engine has computed them before
capacity  a fake engine that emits at a fixed rate, with the same tokenizer: only serving has work;
          capacity-requests: the same, one token for each request
engine    the demo LLM: the engine limits the rate
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

MAKER = Path(__file__).with_name("tiny_llama.py")
KV_CACHE_BYTES = 1 << 30
CONTEXT_WORDS = 1000

ENGINE: dict[str, Any] = {
    "max_model_len": 2048,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 2048,
    "kv_cache_memory_bytes": KV_CACHE_BYTES,
    "enforce_eager": True,
}
"""Fields of vLLM's AsyncEngineArgs. Every stack runs the engine in its default processes."""

FAKE_ENGINE: dict[str, Any] = {
    "max_model_len": 2048,
    "max_num_seqs": 2048,  # a front-end that waits for this limit waits for nothing
    "block_size": 32,
    "enable_prefix_caching": False,
    "enforce_eager": True,
    "distributed_executor_backend": "bench_fake_engine.FakeExecutor",
    "scheduler_cls": "bench_fake_engine.FakeScheduler",
}
"""The engine options of `capacity`; see fake_engine/bench_fake_engine.py."""
STEP_MS, SHORT_STEP_MS = 20, 2
"""50 tokens a second for each stream, as GPUs make; and too short for requests to wait for it."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # as Ray sets it; vLLM's worker counts its threads by itself
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""The environment of every stack."""
FAKE_ENGINE_PATH = Path(__file__).parents[1] / "fake_engine"
"""On PYTHONPATH in every stack, where the engine's process finds bench_fake_engine."""


@dataclass(frozen=True, slots=True)
class Rig:
    """A model and its load."""

    name: str
    model: str  # the name that clients use
    prepare: Callable[[Path], Path]  # home -> the model's folder
    max_tokens: int
    concurrencies: tuple[int, ...]
    least_requests: int
    most_per_worker: int
    enough_requests: int
    engine: dict[str, Any] = field(default_factory=lambda: dict(ENGINE))
    context_words: int = 0
    shares_context: bool = False

    def engine_here(self) -> dict[str, Any]:
        """Return the engine options with the number format that this hardware computes in.

        A CPU that emulates bfloat16 is several times slower, and the engine is the limit.
        """
        from deployments.engines.hardware import pick_device

        return {"dtype": find_dtype(pick_device("auto")), **self.engine}

    def requests(self, concurrency: int) -> int:
        """Return the requests of a measurement: 10 to 20 s on two cores, two or more per worker."""
        enough = min(self.most_per_worker * concurrency, self.enough_requests)
        return max(self.least_requests, enough, 2 * concurrency)


def find_dtype(device: str) -> str:
    """Return the name of the number format that a device computes in."""
    from deployments.engines.hardware import pick_dtype  # it needs torch; --help does not

    return str(pick_dtype("auto", device)).removeprefix("torch.")


def demo_llm(home: Path) -> Path:
    """Return the folder of the demo LLM, which scripts/setup downloaded."""
    return home / "models" / "smollm2"


def tiny_llama(home: Path) -> Path:
    """Return the folder of the serving rig's model; make it unless this version exists."""
    version = hashlib.sha256(MAKER.read_bytes()).hexdigest()[:8]
    folder = home / "bench" / "models" / f"tiny-llama-{version}"
    if folder.exists():
        return folder
    building = folder.with_suffix(".part")
    shutil.rmtree(building, ignore_errors=True)
    building.parent.mkdir(parents=True, exist_ok=True)
    print("making the serving rig's model", flush=True)
    command = [sys.executable, "-m", "scripts.benchmark.stacks.tiny_llama", str(demo_llm(home))]
    subprocess.run([*command, str(building)], check=True, stderr=subprocess.DEVNULL)
    building.rename(folder)
    return folder


def fake_engine(step_ms: int) -> dict[str, Any]:
    """Return the engine options of a fake engine whose steps take this long."""
    return {**FAKE_ENGINE, "additional_config": {"step_ms": step_ms}}


PREFILL = Rig(
    "", "tiny-llama", tiny_llama, 1, (1, 16, 32), 100, 50, 800, context_words=CONTEXT_WORDS
)
RIGS = {
    "serving": Rig("serving", "tiny-llama", tiny_llama, 256, (1, 16, 64, 256), 24, 10, 256),
    "requests": Rig("requests", "tiny-llama", tiny_llama, 1, (1, 16, 32, 64), 300, 100, 2400),
    "prefill": replace(PREFILL, name="prefill"),
    "prefill-cached": replace(PREFILL, name="prefill-cached", shares_context=True),
    "capacity": Rig(
        "capacity",
        "tiny-llama",
        tiny_llama,
        128,
        (64, 256, 512),
        64,
        4,
        1024,
        engine=fake_engine(STEP_MS),
    ),
    "capacity-requests": Rig(
        "capacity-requests",
        "tiny-llama",
        tiny_llama,
        1,
        (1, 32, 64),
        300,
        100,
        4800,
        engine=fake_engine(SHORT_STEP_MS),
    ),
    "engine": Rig("engine", "smollm2", demo_llm, 128, (1, 16, 32, 64), 10, 4, 64),
}
