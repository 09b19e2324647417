"""Loading and batching shared by both kinds of sentence-transformers models."""

from collections.abc import Callable, Collection, Sequence
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

if TYPE_CHECKING:
    import torch

Model = TypeVar("Model")


def load_encoder(
    kind: Callable[..., Model], folder: str, options: EncoderOptions, trust: Collection[str] = ()
) -> Model:
    """Load a model and prepare it for the hardware; takes seconds, and blocks.

    Args:
        kind: the class of sentence-transformers.
        folder: of the model.
        options: device, dtype and weight prepacking.
        trust: `code` lets the model run code of its own, `pickles` lets it be read from pickles.

    Raises:
        Exception: what sentence-transformers raises when it cannot load the model.
    """
    from deployments.engines.weight_packing import prepack_weights

    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    weights = {} if "pickles" in trust else {"use_safetensors": True}
    model: Any = kind(
        folder,
        device=device,
        local_files_only=True,
        trust_remote_code="code" in trust,
        model_kwargs={"dtype": dtype, **weights},
    )
    if device == "cpu":
        keep_freed_memory()
    if options.pack_weights:
        prepack_weights(model)
    ready: Model = model.eval()
    return ready


def start_batcher(forward: Forward, options: EncoderOptions) -> Batcher:
    """Start a batcher with as many threads as suit the hardware.

    Args:
        forward: computes a batch.
        options: the device, and the tokens of one batch.
    """
    device = pick_device(options.device)
    cores = Cores(device)
    max_batch_tokens = pick_batch_tokens(options.max_batch_tokens, device)
    return Batcher(forward, max_batch_tokens, cores.batches, cores.set_threads)


def find_max_tokens(model: Any, configured: int | None) -> int:
    """Find the most tokens that a model of sentence-transformers takes per text.

    Args:
        model: a PyTorch module.
        configured: a lower limit from the configuration.
    """
    limits = [
        int(model.max_seq_length or model.tokenizer.model_max_length),
        *_count_positions(model),
    ]
    return min([*limits, configured] if configured else limits)


def _count_positions(model: Any) -> list[int]:
    """Count the usable positions of each position embedding that reserves rows for padding.

    RoBERTa and its relatives number positions from `padding_idx + 1`, so the first rows of the
    table are unusable. Neither the tokenizer nor sentence-transformers 6.2 subtracts them, and a
    text that is too long by these rows breaks its whole batch.
    Source: transformers 5.19 modeling_xlm_roberta.py, `create_position_ids_from_input_ids`.
    """
    return [
        int(module.num_embeddings) - int(module.padding_idx) - 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]


def to_features(
    sequences: Sequence[Tokens], pad_id: int, device: "torch.device"
) -> "dict[str, torch.Tensor]":
    """Build a transformer's inputs: token ids, attention mask, and token types if there are any.

    Returns:
        Tensors (B, T) int64, padded to the longest sequence.
    """
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
