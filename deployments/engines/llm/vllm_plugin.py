"""What is added to vLLM's own processes; vLLM finds it by an entry point in pyproject.toml.

Schemas are compiled at a low priority (`grammar_threads.py`).

On a CPU, vLLM 0.32 crashes on any seeded request whose prompt is prefilled in several steps: it
rewinds the generator for the discarded token by the generator's offset, which only CUDA generators
have (v1/worker/gpu_model_runner.py, `_bookkeeping_sync`).
"""

import torch  # noqa: TID253  # only vLLM imports this module, and vLLM imports torch anyway

from deployments.engines.llm.grammar_threads import give_way_to_tokens
from deployments.engines.llm.startup_errors import keep_startup_errors


class RewindableGenerator(torch.Generator):
    """A CPU generator that rewinds to its seed, which is right while the prompt is prefilled."""

    def get_offset(self) -> int:
        """Return 0: a CPU generator has no offset."""
        return 0

    def set_offset(self, offset: int) -> None:
        """Rewind to the seed, whatever the offset."""
        self.manual_seed(self.initial_seed())


def register() -> None:
    """Patch vLLM and torch, and keep errors. vLLM calls this in each process, even repeatedly."""
    from vllm.platforms import current_platform
    from vllm.v1.structured_output import StructuredOutputManager

    keep_startup_errors()
    give_way_to_tokens(StructuredOutputManager)
    if current_platform.is_cpu():
        torch.Generator = RewindableGenerator
