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
