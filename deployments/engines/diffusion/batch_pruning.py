"""Rows of a batch that nobody waits for any more: the denoiser leaves them out.

A pipeline's own tensors keep their size to its end, so it need not know: what goes into its
denoiser is cut, and what comes out is filled up with zeros. The rest of a step costs little.
"""

from collections.abc import Sequence
from typing import Any

_OF_PLACES = ("img_ids", "txt_ids", "image_rotary_emb")
"""Arguments with a row for each place in a picture or prompt, not for each image."""

_LEAST_NDIM = 3
"""Of what is denoised, (N, places, C) or (N, C, h, w); timesteps have one, pooled prompts two."""


class Attendance:
    """Who of the batch under way is still there; two hooks on a denoiser."""

    def __init__(self, denoiser: Any) -> None:
        """Watch over what a `torch.nn.Module` is given."""
        self._count = 0
        self._kept: Sequence[int] = ()
        self._filling: tuple[int, Any] | None = None
        """How many rows there are, and which are kept."""
        denoiser.register_forward_pre_hook(self._cut, with_kwargs=True)
        denoiser.register_forward_hook(self._fill)

    def begin(self, count: int) -> None:
        """A batch of so many images begins, and all are there."""
        self._count = count
        self._kept = range(count)

    def keep(self, kept: Sequence[int]) -> None:
        """Only these are still there, counted from 0."""
        self._kept = kept

    def _cut(
        self, denoiser: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What goes in: guidance has a block of rows with each prompt, and one without."""
        import torch

        self._filling = None
        if len(self._kept) == self._count:
            return None
        denoised = (each for each in (*args, *kwargs.values()) if _is_denoised(each))
        given: Any = next(denoised, [])
        rows = len(given)
        if not rows or rows % self._count:
            return None
        numbers = [block + number for block in range(0, rows, self._count) for number in self._kept]
        index = torch.tensor(numbers, device=given[0].device)
        self._filling = rows, index
        if isinstance(given, list):  # Z-Image's has a list for pictures, and one for prompts
            return tuple(_pick_from_lists(value, rows, index) for value in args), kwargs
        rest = {
            name: value if name in _OF_PLACES else _pick(value, rows, index)
            for name, value in kwargs.items()
        }
        return tuple(_pick(value, rows, index) for value in args), rest

    def _fill(self, denoiser: Any, args: tuple[Any, ...], output: Any) -> Any:
        """What comes out, in the size that the pipeline expects."""
        if self._filling is None:
            return output
        rows, index = self._filling
        if isinstance(output, tuple):
            return tuple(_spread(value, rows, index) for value in output)
        return type(output)(**{name: _spread(output[name], rows, index) for name in output})


def _is_denoised(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_denoised(each) for each in value)
    return getattr(value, "ndim", 0) >= _LEAST_NDIM


def _pick_from_lists(value: Any, rows: int, index: Any) -> Any:
    """`_pick`, where a list has one tensor a row and not all rows in each tensor."""
    if isinstance(value, list) and len(value) == rows:
        return [value[number] for number in index.tolist()]
    return _pick(value, rows, index)


def _pick(value: Any, rows: int, index: Any) -> Any:
    """The rows that are kept, wherever they are; what has no rows as it is."""
    import torch

    if isinstance(value, torch.Tensor):
        has_rows = value.ndim and value.shape[0] == rows
        return value[index.to(value.device)] if has_rows else value
    if isinstance(value, dict):
        return {name: _pick(each, rows, index) for name, each in value.items()}
    if isinstance(value, list | tuple):
        if len(value) == rows and not any(isinstance(each, torch.Tensor) for each in value):
            return type(value)(value[number] for number in index.tolist())
        return type(value)(_pick(each, rows, index) for each in value)
    return value


def _spread(value: Any, rows: int, index: Any) -> Any:
    """What was picked undone, with zeros for those who are not there."""
    import torch

    if isinstance(value, list):
        drawn = dict(zip(index.tolist(), value, strict=True))
        return [drawn.get(number, torch.zeros_like(value[0])) for number in range(rows)]
    if not isinstance(value, torch.Tensor):
        return value
    whole = value.new_zeros(rows, *value.shape[1:])
    whole[index.to(value.device)] = value
    return whole
