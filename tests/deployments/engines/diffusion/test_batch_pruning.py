"""Pruning, with every form of argument that diffusers' denoisers take."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch  # noqa: TID253

from deployments.engines.diffusion.batch_pruning import BatchPruner

COUNT, ACTIVE = 3, [0, 2]


class Denoiser(torch.nn.Module):
    """Records its inputs, and doubles them."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, Any] = {}

    def forward(self, hidden_states: torch.Tensor, **more: Any) -> tuple[torch.Tensor, str]:
        self.given = {"hidden_states": hidden_states, **more}
        return 2 * hidden_states, "unchanged"


@pytest.fixture
def both() -> SimpleNamespace:
    denoiser = Denoiser()
    pruner = BatchPruner(denoiser)
    pruner.begin(COUNT)
    return SimpleNamespace(denoiser=denoiser, pruner=pruner)


def numbered(rows: int, *shape: int) -> torch.Tensor:
    """(rows, *shape), where every row holds its number, counted from 1."""
    axes = (rows, *[1] * len(shape))
    return torch.arange(1.0, rows + 1).reshape(axes).expand(rows, *shape)


def rows_of(value: torch.Tensor) -> list[float]:
    return value.reshape(value.shape[0], -1)[:, 0].tolist()


def test_whole_batch_is_computed_while_all_rows_are_active(both: SimpleNamespace) -> None:
    output, _ = both.denoiser(numbered(COUNT, 4, 2))

    assert rows_of(both.denoiser.given["hidden_states"]) == [1, 2, 3]
    assert rows_of(output) == [2, 4, 6]


def test_inactive_row_is_not_computed_and_comes_out_as_zeros(both: SimpleNamespace) -> None:
    both.pruner.set_active_rows(ACTIVE)

    output, rest = both.denoiser(numbered(COUNT, 4, 2))

    assert rows_of(both.denoiser.given["hidden_states"]) == [1, 3]
    assert rows_of(output) == [2, 0, 6]
    assert rest == "unchanged"


def test_guidance_blocks_with_and_without_prompts_are_both_pruned(both: SimpleNamespace) -> None:
    both.pruner.set_active_rows(ACTIVE)

    output, _ = both.denoiser(numbered(2 * COUNT, 4, 2))

    assert rows_of(both.denoiser.given["hidden_states"]) == [1, 3, 4, 6]
    assert rows_of(output) == [2, 0, 6, 8, 0, 12]


def test_only_arguments_with_one_row_per_image_are_pruned(both: SimpleNamespace) -> None:
    both.pruner.set_active_rows(ACTIVE)

    both.denoiser(
        hidden_states=numbered(COUNT, 4, 2),
        timestep=numbered(COUNT),
        added_cond_kwargs={"text_embeds": numbered(COUNT, 5), "resolution": None},
        img_shapes=["a", "b", "c"],
        residuals=(numbered(COUNT, 4), numbered(COUNT, 4), numbered(COUNT, 4)),
        img_ids=numbered(COUNT, 3),
        at=torch.tensor(7),
        places=numbered(8, 3),
        scale=3.0,
    )
    given = both.denoiser.given

    assert rows_of(given["timestep"]) == [1, 3]
    assert rows_of(given["added_cond_kwargs"]["text_embeds"]) == [1, 3]
    assert given["img_shapes"] == ["a", "c"]
    assert [rows_of(each) for each in given["residuals"]] == [[1, 3]] * COUNT
    assert rows_of(given["img_ids"]) == [1, 2, 3]
    assert (given["at"], given["scale"]) == (7, 3.0)
    assert rows_of(given["places"]) == list(range(1, 9))


def test_lists_of_images_and_prompts_are_pruned_alike(both: SimpleNamespace) -> None:
    given: tuple[Any, ...] = ()

    def double(*args: Any, **more: Any) -> tuple[list[torch.Tensor]]:
        nonlocal given
        given = args
        return ([2 * each for each in args[0]],)

    both.denoiser.forward = double
    both.pruner.set_active_rows(ACTIVE)
    images = list(numbered(COUNT, 4, 1, 2))
    prompts = [torch.full((length, 5), length) for length in (1, 2, 3)]

    (output,) = both.denoiser(images, numbered(COUNT), prompts, scale=3.0)

    assert rows_of(torch.stack(given[0])) == [1, 3]
    assert given[1].tolist() == [1, 3]
    assert [len(prompt) for prompt in given[2]] == [1, 3]
    assert rows_of(torch.stack(output)) == [2, 0, 6]


def test_output_keeps_its_class(both: SimpleNamespace) -> None:
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    both.denoiser.forward = lambda rows: Transformer2DModelOutput(sample=2 * rows)
    both.pruner.set_active_rows(ACTIVE)

    assert rows_of(both.denoiser(numbered(COUNT, 4, 2)).sample) == [2, 0, 6]


def test_next_batch_starts_with_all_rows_active(both: SimpleNamespace) -> None:
    both.pruner.set_active_rows(ACTIVE)
    both.denoiser(numbered(COUNT, 4, 2))

    both.pruner.begin(2)
    output, _ = both.denoiser(numbered(2, 4, 2))

    assert rows_of(output) == [2, 4]
