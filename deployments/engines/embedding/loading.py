"""What sentence-transformers' two kinds of model have in common: how they load, and compute."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from deployments.config.embedding import EncoderOptions
from deployments.engines.embedding.batcher import Batcher, Forward
from deployments.engines.embedding.inputs import Tokens
from deployments.engines.hardware import (
    Cores,
    keep_freed_memory,
    pick_batch_tokens,
    pick_device,
    pick_dtype,
)

Model = TypeVar("Model")


def load_encoder(kind: Callable[..., Model], folder: str, options: EncoderOptions) -> Model:
    """Load a model, and make it ready for the hardware; takes seconds, and blocks.

    Raises:
        Exception: whatever sentence-transformers raises when it cannot load the model.
    """
    from deployments.engines.weight_packing import pack_weights

    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    model: Any = kind(folder, device=device, local_files_only=True, model_kwargs={"dtype": dtype})
    if device == "cpu":
        keep_freed_memory()
    if options.pack_weights:
        pack_weights(model)
    ready: Model = model.eval()
    return ready


def start_batcher(forward: Forward, options: EncoderOptions) -> Batcher:
    """Threads that compute by `forward`, as many as the hardware has a use for.

    Args:
        forward: computes a batch.
        options: where, and how much at once.
    """
    device = pick_device(options.device)
    cores = Cores(device)
    most = pick_batch_tokens(options.max_batch_tokens, device)
    return Batcher(forward, most, cores.batches, cores.take)


def find_max_tokens(model: Any, wanted: int | None) -> int:
    """The most tokens of one text that a model of sentence-transformers takes.

    Args:
        model: with its modules in PyTorch.
        wanted: fewer than it could, by configuration.
    """
    limits = [int(model.max_seq_length or model.tokenizer.model_max_length), *_find_places(model)]
    return min([*limits, wanted] if wanted else limits)


def _find_places(model: Any) -> list[int]:
    """How many positions there are for tokens, where padding has one of its own.

    RoBERTa and its kin count from the one after it, so the first rows of the table are nobody's;
    neither the tokenizer nor sentence-transformers 6.2 leaves them out, and a text that needs them
    breaks its whole batch.
    Source: transformers 5.19 modeling_xlm_roberta.py, `create_position_ids_from_input_ids`.
    """
    return [
        int(module.num_embeddings) - int(module.padding_idx) - 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]


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
