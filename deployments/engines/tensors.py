"""Sequences of token ids → the padded tensors of one batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deployments.engines.encoder_inputs import Tokens

if TYPE_CHECKING:
    import torch


def to_features(
    sequences: Sequence[Tokens], pad_id: int, device: "torch.device"
) -> "dict[str, torch.Tensor]":
    """What a transformer takes: ids, mask, and types if the sequences have them."""
    import numpy as np
    import torch

    shape = len(sequences), max(map(len, sequences))
    ids = np.full(shape, pad_id, np.int64)  # (B, T)
    mask = np.zeros(shape, np.int64)  # (B, T)
    for row, each in enumerate(sequences):
        ids[row, : len(each)] = each.ids
        mask[row, : len(each)] = 1
    arrays = {"input_ids": ids, "attention_mask": mask}
    if any(each.types is not None for each in sequences):
        types = arrays["token_type_ids"] = np.zeros(shape, np.int64)  # (B, T)
        for row, each in enumerate(sequences):
            types[row, : len(each)] = each.types or 0
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
