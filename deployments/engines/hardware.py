"""Which device and number format a model runs in, where the configuration leaves it open."""

import contextlib
import ctypes
from typing import TYPE_CHECKING

from deployments.config.base import Dtype

if TYPE_CHECKING:
    import torch


_MOST_AT_ONCE = 4
"""With more, each batch of a large model would take long on its few cores."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEPT_BYTES = 2**30

_WORTH_ALL_CORES = 128
"""Tokens of a batch; shorter ones gain little by company, and lose all of it when that is late."""


def pick_device(device: str) -> str:
    """The device asked for; `auto` is a GPU if torch sees one."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_batch_tokens(tokens: int | None, device: str) -> int:
    """Tokens of one pass; an input that has more is computed alone.

    More make a CPU no faster (MiniLM on two cores: 1024 to 16384 within 5 %), but hold up short
    requests, which wait for the pass under way.
    """
    return tokens or (1024 if device == "cpu" else 16384)


def keep_freed_memory() -> None:
    """Let this process keep what it frees, where its C library is glibc.

    It would give large tensors back to the kernel, and get them again for the next batch, page by
    page: with MiniLM in two threads a tenth of all time. What is kept is the most that was in use.
    """
    with contextlib.suppress(AttributeError):
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, _KEPT_BYTES)


class Cores:
    """The cores of a CPU, shared by the batches that are computed at once.

    Two batches on a core each are faster than one after the other on both (MiniLM: by a fifth), for
    nothing waits for the slower half of every operation. A GPU is given one at a time.
    """

    def __init__(self, device: str) -> None:
        """Share what torch has, which is what `OMP_NUM_THREADS` says."""
        import torch

        self._all = torch.get_num_threads()
        self.batches = min(self._all, _MOST_AT_ONCE) if device == "cpu" else 1
        """How many there are at once."""

    def take(self, tokens: int, is_alone: bool) -> None:
        """Give the calling thread its share: all for a long batch that is alone."""
        import torch

        has_all = is_alone and tokens >= _WORTH_ALL_CORES
        share = self._all if has_all else self._all // self.batches
        if torch.get_num_threads() != share:
            torch.set_num_threads(share)  # of this thread only


def pick_dtype(dtype: Dtype, device: str) -> "torch.dtype":
    """The number format asked for; `auto` is bfloat16 where the hardware computes in it."""
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
