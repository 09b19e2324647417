"""The device, number format and thread count a model runs with."""

import contextlib
import ctypes
from typing import TYPE_CHECKING

from deployments.config.base import Dtype
from deployments.engines.sources import EngineStartError

if TYPE_CHECKING:
    import torch


_MAX_CONCURRENT_BATCHES = 4
"""With more, each batch of a large model would have few cores and take long."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEPT_BYTES = 2**30

_MIN_TOKENS_FOR_ALL_CORES = 128
"""Smaller batches gain little from more cores, and delay the next batch."""


def pick_device(device: str) -> str:
    """Return the configured device; `auto` is a GPU if Ray has given one, else the CPU.

    Raises:
        EngineStartError: there is no GPU, but one is configured.
    """
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise EngineStartError(f"device '{device}': no GPU; set num_gpus in ray_actor_options")
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_batch_tokens(tokens: int | None, device: str) -> int:
    """Return the token limit of one forward pass; a longer input is computed alone.

    A higher limit makes a CPU no faster (MiniLM on two cores: 1024 to 16384 within 5 %), but delays
    short requests, which wait for the pass under way.
    """
    return tokens or (1024 if device == "cpu" else 16384)


def keep_freed_memory() -> None:
    """Keep freed memory in this process, where the C library is glibc.

    By default glibc returns large tensors to the kernel and faults them in again for the next
    batch, page by page: a tenth of all time with MiniLM in two threads. The process then holds the
    peak of what was in use.
    """
    with contextlib.suppress(AttributeError):
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, _KEPT_BYTES)


class Cores:
    """The CPU cores, divided among the batches that run concurrently.

    Two batches on one core each are faster than one after the other on both (MiniLM: by a fifth),
    because no operator waits for its slower half. A GPU runs one batch at a time.
    """

    def __init__(self, device: str) -> None:
        """Divide the threads that torch has, which is what `OMP_NUM_THREADS` says."""
        import torch

        self._all = torch.get_num_threads()
        self.batches = min(self._all, _MAX_CONCURRENT_BATCHES) if device == "cpu" else 1
        """Number of batches that run concurrently."""

    def set_threads(self, tokens: int, is_alone: bool) -> None:
        """Set torch's thread count for the calling thread: all cores for a long batch alone.

        Args:
            tokens: tokens of the batch.
            is_alone: whether no other batch runs or waits.
        """
        import torch

        has_all = is_alone and tokens >= _MIN_TOKENS_FOR_ALL_CORES
        share = self._all if has_all else self._all // self.batches
        if torch.get_num_threads() != share:
            torch.set_num_threads(share)  # of this thread only


def pick_vllm_dtype(dtype: str) -> str:
    """Return the number format for vLLM: on a CPU that emulates bfloat16, `auto` is float32.

    vLLM's own `auto` is the format on disk, mostly bfloat16. Where a CPU does not compute in it,
    the demo LLM makes 18 tokens a second for eight clients instead of 67.
    """
    import torch
    from vllm.platforms import current_platform

    if dtype != "auto" or not current_platform.is_cpu():
        return dtype
    return "float32" if pick_dtype("auto", "cpu") is torch.float32 else "auto"


def pick_dtype(dtype: Dtype, device: str) -> "torch.dtype":
    """Return the configured number format; `auto` is bfloat16 where the hardware computes in it."""
    import torch

    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
            dtype
        ]
    has_bfloat16 = (
        torch.cuda.is_bf16_supported()
        if device.startswith("cuda")
        else torch.ops.mkldnn._is_mkldnn_bf16_supported()  # AVX-512 or AMX; no public function
    )
    return torch.bfloat16 if has_bfloat16 else torch.float32
