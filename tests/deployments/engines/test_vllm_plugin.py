"""The random generator that vLLM's workers use on a CPU."""

import torch

from deployments.engines.vllm_plugin import RewindableGenerator


def draw(generator: torch.Generator) -> list[float]:
    numbers: list[float] = torch.empty(3).exponential_(generator=generator).tolist()
    return numbers


def test_winding_back_begins_again_with_the_same_seed() -> None:
    generator = RewindableGenerator(device="cpu")
    generator.manual_seed(5)
    first = draw(generator)
    generator.set_offset(generator.get_offset() - 4)

    assert draw(generator) == first
    assert draw(generator) != first


def test_numbers_are_those_of_any_generator() -> None:
    generator = RewindableGenerator(device="cpu")

    assert draw(generator.manual_seed(7)) == draw(torch.Generator().manual_seed(7))
