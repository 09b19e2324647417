"""The random generator that vLLM's workers use on a CPU."""

from typing import Any


def new_generator(seed: int) -> Any:
    from deployments.engines.llm.vllm_plugin import RewindableGenerator

    return RewindableGenerator(device="cpu").manual_seed(seed)


def draw(generator: Any) -> list[float]:
    import torch

    numbers: list[float] = torch.empty(3).exponential_(generator=generator).tolist()
    return numbers


def test_rewound_generator_repeats_its_numbers() -> None:
    generator = new_generator(5)
    first = draw(generator)
    generator.set_offset(generator.get_offset() - 4)

    assert draw(generator) == first
    assert draw(generator) != first


def test_numbers_equal_those_of_a_torch_generator() -> None:
    import torch

    assert draw(new_generator(7)) == draw(torch.Generator().manual_seed(7))
