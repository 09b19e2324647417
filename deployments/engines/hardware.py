"""Which device and number format a model runs in, where the configuration leaves it open."""

from typing import TYPE_CHECKING

from deployments.config import Dtype

if TYPE_CHECKING:
    import torch


def pick_device(device: str) -> str:
    """The device asked for; `auto` is a GPU if torch sees one."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_batch_tokens(tokens: int | None, device: str, least: int) -> int:
    """Tokens of one pass: those asked for, but never fewer than one input may have.

    More make a CPU no faster (MiniLM on two cores: 1024 to 16384 within 5 %), but hold up short
    requests, which wait for the pass under way.
    """
    return max(tokens or (2048 if device == "cpu" else 16384), least)


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
