"""Batch pruning: rows of images whose clients have left are not computed by the denoiser.

The pipeline's own tensors keep their size to the end, so the pipeline needs no change: the inputs
of its denoiser are gathered to the active rows, and the outputs scattered back with zeros between
them. What a step computes outside the denoiser costs little.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_PER_POSITION = ("img_ids", "txt_ids", "image_rotary_emb")
"""Arguments with one row per position in an image or prompt, not one per image."""

_MIN_LATENTS_NDIM = 3
"""Latents are (N, positions, C) or (N, C, h, w); timesteps have one axis, pooled prompts two."""


class BatchPruner:
    """Two hooks on a denoiser that skip the inactive rows of a batch."""

    def __init__(self, denoiser: Any) -> None:
        """Register the hooks on a `torch.nn.Module`."""
        self._count = 0
        self._active_rows: Sequence[int] = ()
        self._scatter: tuple[int, Any] | None = None
        """Number of rows and index of the gathered ones; None if nothing was pruned."""
        denoiser.register_forward_pre_hook(self._gather_inputs, with_kwargs=True)
        denoiser.register_forward_hook(self._scatter_outputs)

    def begin(self, count: int) -> None:
        """Start a batch of `count` images, all of them active."""
        self._count = count
        self._active_rows = range(count)

    def set_active_rows(self, rows: Sequence[int]) -> None:
        """Compute only these images of the batch from now on, counted from 0."""
        self._active_rows = rows

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Let another batch begin and end inside the block."""
        batch = self._count, self._active_rows
        try:
            yield
        finally:
            self._count, self._active_rows = batch

    def _gather_inputs(
        self, denoiser: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Gather the active rows of every argument.

        With classifier-free guidance, there are two blocks of N rows: with and without the prompt.
        """
        import torch

        self._scatter = None
        if len(self._active_rows) == self._count:
            return None
        candidates = (each for each in (*args, *kwargs.values()) if _is_latents(each))
        latents: Any = next(candidates, [])
        rows = len(latents)
        if not rows or rows % self._count:
            return None
        blocks = range(0, rows, self._count)
        numbers = [start + row for start in blocks for row in self._active_rows]
        index = torch.tensor(numbers, device=latents[0].device)  # (K,) int64
        self._scatter = rows, index
        if isinstance(latents, list):  # Z-Image takes a list of images and a list of prompts
            return tuple(_gather_lists(value, rows, index) for value in args), kwargs
        gathered = {
            name: value if name in _PER_POSITION else gather_rows(value, rows, index)
            for name, value in kwargs.items()
        }
        return tuple(gather_rows(value, rows, index) for value in args), gathered

    def _scatter_outputs(self, denoiser: Any, args: tuple[Any, ...], output: Any) -> Any:
        """Return the output in the size that the pipeline expects."""
        if self._scatter is None:
            return output
        rows, index = self._scatter
        if isinstance(output, tuple):
            return tuple(scatter_rows(value, rows, index) for value in output)
        return type(output)(**{name: scatter_rows(output[name], rows, index) for name in output})


def _is_latents(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_latents(each) for each in value)
    return getattr(value, "ndim", 0) >= _MIN_LATENTS_NDIM


def _gather_lists(value: Any, rows: int, index: Any) -> Any:
    """Gather like `gather_rows`, where a list holds one tensor per row."""
    if isinstance(value, list) and len(value) == rows:
        return [value[number] for number in index.tolist()]
    return gather_rows(value, rows, index)


def gather_rows(value: Any, rows: int, index: Any) -> Any:
    """Return the rows that `index` names, in a tensor or nested in dicts, lists and tuples.

    Args:
        value: tensors (rows, …) become (K, …); whatever has no such rows is returned as it is.
        rows: number of rows of the whole batch.
        index: numbers of the K active rows, (K,) int64.
    """
    import torch

    if isinstance(value, torch.Tensor):
        has_rows = value.ndim and value.shape[0] == rows
        return value[index.to(value.device)] if has_rows else value
    if isinstance(value, dict):
        return {name: gather_rows(each, rows, index) for name, each in value.items()}
    if isinstance(value, list | tuple):
        if len(value) == rows and not any(isinstance(each, torch.Tensor) for each in value):
            return type(value)(value[number] for number in index.tolist())
        return type(value)(gather_rows(each, rows, index) for each in value)
    return value


def scatter_rows(value: Any, rows: int, index: Any) -> Any:
    """Put gathered rows back in their places, with zeros in the others: the inverse of a gather.

    Args:
        value: a tensor (K, …), which becomes (rows, …), or a list of K tensors, which becomes one
            of `rows` tensors; anything else is returned as it is.
        rows: number of rows of the whole batch.
        index: numbers of the K active rows, (K,) int64.
    """
    import torch

    if isinstance(value, list):
        computed = dict(zip(index.tolist(), value, strict=True))
        return [computed.get(number, torch.zeros_like(value[0])) for number in range(rows)]
    if not isinstance(value, torch.Tensor):
        return value
    whole = value.new_zeros(rows, *value.shape[1:])  # (rows, …)
    whole[index.to(value.device)] = value
    return whole
