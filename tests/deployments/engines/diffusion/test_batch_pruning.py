"""Rows that are left out, of every form of argument that diffusers' denoisers take."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch  # noqa: TID253

from deployments.engines.diffusion.batch_pruning import Attendance

COUNT, KEPT = 3, [0, 2]


class Denoiser(torch.nn.Module):
    """Notes what it is given, and doubles it."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, Any] = {}

    def forward(self, hidden_states: torch.Tensor, **more: Any) -> tuple[torch.Tensor, str]:
        self.given = {"hidden_states": hidden_states, **more}
        return 2 * hidden_states, "unchanged"


@pytest.fixture
def both() -> SimpleNamespace:
    denoiser = Denoiser()
    attendance = Attendance(denoiser)
    attendance.begin(COUNT)
    return SimpleNamespace(denoiser=denoiser, attendance=attendance)


def numbered(rows: int, *shape: int) -> torch.Tensor:
    """Every row is its number, counted from 1."""
    places = (rows, *[1] * len(shape))
    return torch.arange(1.0, rows + 1).reshape(places).expand(rows, *shape)


def rows_of(value: torch.Tensor) -> list[float]:
    return value.reshape(value.shape[0], -1)[:, 0].tolist()


def test_all_are_computed_while_all_are_there(both: SimpleNamespace) -> None:
    output, _ = both.denoiser(numbered(COUNT, 4, 2))

    assert rows_of(both.denoiser.given["hidden_states"]) == [1, 2, 3]
    assert rows_of(output) == [2, 4, 6]


def test_who_has_left_is_not_computed_and_comes_out_as_zeros(both: SimpleNamespace) -> None:
    both.attendance.keep(KEPT)

    output, rest = both.denoiser(numbered(COUNT, 4, 2))

    assert rows_of(both.denoiser.given["hidden_states"]) == [1, 3]
    assert rows_of(output) == [2, 0, 6]
    assert rest == "unchanged"


def test_guidance_has_a_block_with_prompts_and_one_without(both: SimpleNamespace) -> None:
    both.attendance.keep(KEPT)

    output, _ = both.denoiser(numbered(2 * COUNT, 4, 2))

    assert rows_of(both.denoiser.given["hidden_states"]) == [1, 3, 4, 6]
    assert rows_of(output) == [2, 0, 6, 8, 0, 12]


def test_all_that_has_a_row_an_image_is_cut_and_nothing_else(both: SimpleNamespace) -> None:
    both.attendance.keep(KEPT)

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


def test_pictures_and_prompts_in_lists_are_cut_alike(both: SimpleNamespace) -> None:
    given: tuple[Any, ...] = ()

    def double(*args: Any, **more: Any) -> tuple[list[torch.Tensor]]:
        nonlocal given
        given = args
        return ([2 * each for each in args[0]],)

    both.denoiser.forward = double
    both.attendance.keep(KEPT)
    pictures = list(numbered(COUNT, 4, 1, 2))
    prompts = [torch.full((length, 5), length) for length in (1, 2, 3)]

    (output,) = both.denoiser(pictures, numbered(COUNT), prompts, scale=3.0)

    assert rows_of(torch.stack(given[0])) == [1, 3]
    assert given[1].tolist() == [1, 3]
    assert [len(prompt) for prompt in given[2]] == [1, 3]
    assert rows_of(torch.stack(output)) == [2, 0, 6]


def test_what_is_named_stays_named(both: SimpleNamespace) -> None:
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    both.denoiser.forward = lambda rows: Transformer2DModelOutput(sample=2 * rows)
    both.attendance.keep(KEPT)

    assert rows_of(both.denoiser(numbered(COUNT, 4, 2)).sample) == [2, 0, 6]


def test_the_next_batch_is_whole_again(both: SimpleNamespace) -> None:
    both.attendance.keep(KEPT)
    both.denoiser(numbered(COUNT, 4, 2))

    both.attendance.begin(2)
    output, _ = both.denoiser(numbered(2, 4, 2))

    assert rows_of(output) == [2, 4]
