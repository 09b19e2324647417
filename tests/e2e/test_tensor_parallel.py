"""A model that two worker processes of vLLM share, on a CPU, compared with transformers."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.helpers.service import Service, wait_until
from tests.helpers.tiny_models import make_llm

pytestmark = pytest.mark.e2e

NAME, PROMPT, TOKENS = "halves", "The capital of France is", 12
PARALLEL_SIZE, MAX_TOKENS = 2, 2048


def configure(source: Path) -> dict[str, Any]:
    """The model's application; each worker computes on a CPU of its own."""
    cpus = sorted(os.sched_getaffinity(0))[:PARALLEL_SIZE]
    environment = {
        "OMP_NUM_THREADS": "1",
        "TORCH_COMPILE_DISABLE": "1",
        # Without it vLLM wants a NUMA node for each worker.
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, cpus)),
    }
    engine = {
        "tensor_parallel_size": PARALLEL_SIZE,
        "distributed_executor_backend": "mp",
        "dtype": "float32",
        "max_model_len": MAX_TOKENS,
        "max_num_seqs": 4,
        "kv_cache_memory_bytes": 1 << 24,
        "enforce_eager": True,
    }
    actor = {"num_cpus": 0.2, "runtime_env": {"env_vars": environment}}
    return {
        "name": NAME,
        "route_prefix": None,
        "import_path": "deployments.app:llm",
        "args": {"id": NAME, "source": str(source), "engine": engine},
        "deployments": [{"name": "LLM", "ray_actor_options": actor}],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("llama")
    make_llm(made)
    return made


@pytest.fixture(scope="module")
def shared(service: Service, folder: Path) -> Iterator[Service]:
    """The demo service with the model added; once it is removed, no worker may be left."""
    before = service.config["applications"]
    service.deploy([*before, configure(folder)])
    try:
        wait_until(lambda: is_ready(service), timeout_s=120)
        yield service
    finally:
        service.deploy(before)
        wait_until(lambda: NAME not in service.ready(), timeout_s=30)
        wait_until(lambda: find_workers(service) == set(), timeout_s=60)


def is_ready(service: Service) -> bool:
    return bool(service.ready().get(NAME, {}).get("state") == "ready")


def expected_text(folder: Path) -> str:
    """What transformers makes of the prompt in one process."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer(PROMPT, return_tensors="pt")
    answer = model.generate(**prompt, do_sample=False, max_new_tokens=TOKENS)
    text: str = tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])
    return text


def complete(service: Service, **members: Any) -> Any:
    return service.openai().completions.create(
        **{"model": NAME, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, **members}
    )


def find_workers(service: Service) -> set[psutil.Process]:
    """The workers of vLLM, named after their rank."""
    found = set()
    for process in service.processes():
        try:
            if "VLLM::Worker" in " ".join(process.cmdline()):
                found.add(process)
        except psutil.NoSuchProcess:
            pass  # it ended meanwhile
    return found


def test_model_of_two_workers_answers_as_one_process_whole_and_streamed(
    shared: Service, folder: Path
) -> None:
    whole = complete(shared)
    pieces = [chunk.choices[0].text for chunk in complete(shared, stream=True)]

    assert len(find_workers(shared)) == PARALLEL_SIZE
    assert whole.choices[0].text == "".join(pieces) == expected_text(folder)
    assert whole.usage.completion_tokens == TOKENS


def test_killed_worker_ends_a_stream_with_an_error_and_leads_to_a_new_replica(
    shared: Service,
) -> None:
    before, replicas = complete(shared).choices[0].text, shared.replica_pids()[NAME]
    workers = find_workers(shared)
    long = {"max_tokens": MAX_TOKENS - 10, "extra_body": {"ignore_eos": True}}
    stream = complete(shared, stream=True, **long)
    next(stream)
    max(workers, key=lambda worker: worker.pid).kill()
    with pytest.raises(openai.APIError) as failure:
        list(stream)

    def is_replaced() -> bool:
        new = shared.replica_pids()[NAME]
        return len(new) == 1 and new != replicas and is_ready(shared)

    wait_until(is_replaced, timeout_s=120)
    after = complete(shared).choices[0].text

    assert failure.value.code == "engine_unavailable"
    assert after == before
    assert len(find_workers(shared)) == PARALLEL_SIZE
    assert not any(worker.is_running() for worker in workers)
