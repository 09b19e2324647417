"""What vLLM's own processes do differently; vLLM finds it by an entry point of pyproject.toml.

vLLM 0.32 dies on a CPU of any request with a seed whose prompt is read in several steps: for the
token that such a step draws and throws away it winds the random generator back by its offset, which
only a GPU's has (v1/worker/gpu_model_runner.py, `_bookkeeping_sync`).
"""

import torch  # noqa: TID253  # nobody but vLLM imports this module, and it has torch


class RewindableGenerator(torch.Generator):
    """A generator on a CPU; winding it back means from the beginning, where a prompt still is."""

    def get_offset(self) -> int:
        """There is none to speak of."""
        return 0

    def set_offset(self, offset: int) -> None:
        """Begin again."""
        self.manual_seed(self.initial_seed())


def register() -> None:
    """Called by vLLM in each of its processes, perhaps more than once."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        torch.Generator = RewindableGenerator
