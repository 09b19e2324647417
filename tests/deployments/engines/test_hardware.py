import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from deployments.engines.hardware import Cores, pick_batch_tokens


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
def test_tokens_of_a_pass(tokens: int | None, device: str, picked: int) -> None:
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_memory_that_is_kept_is_not_asked_for_again() -> None:
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
def test_cores_are_shared_by_batches_at_once_and_all_are_for_a_long_one_alone() -> None:
    import torch

    cores = Cores("cpu")

    assert cores.batches == 4
    for tokens, is_alone, threads in ((500, False, 2), (500, True, 8), (5, True, 2)):
        cores.take(tokens, is_alone)
        assert torch.get_num_threads() == threads


def test_gpu_has_one_batch_at_a_time() -> None:
    assert Cores("cuda").batches == 1
