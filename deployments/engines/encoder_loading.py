"""What sentence-transformers' two kinds of model have in common: how they load, and compute."""

from collections.abc import Callable
from typing import Any, TypeVar

from deployments.config.embedding import EncoderOptions
from deployments.engines.batcher import Batcher, Forward
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
    from deployments.engines.packing import pack_weights

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
