import platform
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from deployments.engines import hardware
from deployments.engines.hardware import Cores, pick_batch_tokens, pick_device, pick_vllm_dtype
from deployments.engines.sources import EngineStartError


@pytest.mark.parametrize(
    ("tokens", "device", "picked"),
    [
        (None, "cpu", 1024),
        (None, "cuda", 16384),
        (None, "cuda:1", 16384),
        (4096, "cpu", 4096),
        (256, "cuda", 256),
    ],
)
def test_batch_tokens_default_to_the_device(tokens: int | None, device: str, picked: int) -> None:
    assert pick_batch_tokens(tokens, device) == picked


COUNT_FAULTS = """
import resource, sys, threading
from deployments.engines.hardware import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()

def allocate():
    for _ in range(50):
        [bytearray(6_000_000) for _ in range(8)]

def measure():
    allocate()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    allocate()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=measure)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc only")
def test_kept_memory_is_not_faulted_in_again() -> None:
    command = [sys.executable, "-c", COUNT_FAULTS]
    without, kept = (
        int(subprocess.run([*command, *more], check=True, capture_output=True).stdout)
        for more in ([], ["keep"])
    )

    assert kept < without / 10


@pytest.fixture
def eight_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("eight_threads")
def test_cores_are_divided_unless_a_long_batch_is_alone() -> None:
    import torch

    cores = Cores("cpu")

    assert cores.batches == 4
    for tokens, is_alone, threads in ((500, False, 2), (500, True, 8), (5, True, 2)):
        cores.set_threads(tokens, is_alone)
        assert torch.get_num_threads() == threads


def test_gpu_runs_one_batch_at_a_time() -> None:
    assert Cores("cuda").batches == 1


@pytest.mark.parametrize(
    ("asked", "is_cpu", "computes_in", "picked"),
    [
        ("auto", True, "float32", "float32"),
        ("auto", True, "bfloat16", "auto"),
        ("auto", False, "float32", "auto"),
        ("bfloat16", True, "float32", "bfloat16"),
    ],
)
def test_vllm_computes_in_float32_where_a_cpu_emulates_bfloat16(
    asked: str, is_cpu: bool, computes_in: str, picked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    platform = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: is_cpu))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platform)
    monkeypatch.setattr(hardware, "pick_dtype", lambda *_: getattr(torch, computes_in))

    assert pick_vllm_dtype(asked) == picked


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_configured_gpu_that_the_replica_does_not_have_is_an_error(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    with pytest.raises(EngineStartError, match="set num_gpus in ray_actor_options"):
        pick_device(device)


@pytest.mark.parametrize(("has_gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_automatic_device_is_a_gpu_if_there_is_one(
    has_gpu: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)

    assert pick_device("auto") == device
