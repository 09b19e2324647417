"""Decoders used as encoders, such as Qwen3-Embedding, run by vLLM's pooling runner.

vLLM makes the batches; tokenization, prompts and limits are ours, the same for all encoders.
"""

import asyncio
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.ports.embeddings import EmbeddingRequest, ScoreRequest
from deployments.config.embedding import EncoderOptions
from deployments.engines.embedding.inputs import InputReader, Tokens
from deployments.engines.embedding.prompts import Prompts
from deployments.engines.embedding.vector_engine import VectorEngine
from deployments.engines.embedding.vectors import EmbeddingSpec, find_matryoshka_dimensions
from deployments.engines.hardware import pick_vllm_dtype
from deployments.engines.llm.startup_errors import root_cause_of_failure
from deployments.engines.llm.vllm_engine import DEFAULTS
from deployments.engines.llm.vllm_errors import translate_errors

if TYPE_CHECKING:
    import numpy as np


class VllmEncoderEngine(VectorEngine):
    """One vLLM engine for vectors, driven from this event loop."""

    def __init__(self, model: str, options: EncoderOptions, vllm: Mapping[str, Any]) -> None:
        """Load the model; takes from seconds to minutes, and blocks.

        Args:
            model: a local folder.
            options: those that do not depend on the runner.
            vllm: fields of vLLM's AsyncEngineArgs.

        Raises:
            TypeError: an option does not exist.
            KeyError: the configured prompt does not exist.
            Exception: what vLLM raises when it cannot load the model.
        """
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        dtype = pick_vllm_dtype(vllm.get("dtype", "auto"))
        fields = {"model": model, **DEFAULTS, "runner": "pooling", **vllm, "dtype": dtype}
        engine_args = AsyncEngineArgs(**fields)
        with root_cause_of_failure():
            self._engine = AsyncLLM.from_engine_args(engine_args)
        config = self._engine.model_config
        saved = _read_prompts(model)
        prompts = Prompts(
            options.prompts,
            saved.get("prompts") or {},
            options.prompt_name or saved.get("default_prompt_name"),
        )
        max_tokens = min(config.max_model_len, options.max_tokens or config.max_model_len)
        reader = InputReader(self._engine.get_tokenizer(), max_tokens, prompts)
        is_normalized = config.pooler_config.use_activation is not False
        size = config.embedding_size
        spec = EmbeddingSpec(
            size, find_matryoshka_dimensions(options.dimensions, model), is_normalized
        )
        super().__init__(reader, prompts, spec)
        self._serial_numbers = itertools.count()

    async def _encode(
        self, sequences: Sequence[Tokens], request: EmbeddingRequest | ScoreRequest
    ) -> "np.ndarray":
        """Send all sequences at once; cancelling this call aborts them in vLLM."""
        import numpy as np

        request_id = request.request_id
        tasks = [asyncio.create_task(self._encode_one(each, request_id)) for each in sequences]
        try:
            rows = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return np.stack(rows)

    async def _encode_one(self, sequence: Tokens, request_id: str) -> "np.ndarray":
        from vllm import PoolingParams
        from vllm.inputs import TokensPrompt

        prompt = TokensPrompt(prompt_token_ids=list(sequence.ids))
        # Clients choose request ids, so two requests may share one; the serial number is unique.
        vllm_id = f"{request_id}-{next(self._serial_numbers)}"
        with translate_errors("input"):
            outputs = self._engine.encode(prompt, PoolingParams(task="embed"), vllm_id)
            async for output in outputs:
                row: np.ndarray = output.outputs.data.float().numpy()  # (D,) float32
        return row

    async def check_health(self) -> None:
        """Run the smallest input through the model.

        Raises:
            ReplicaLostError: the engine is dead.
            EngineError: the engine failed.
        """
        with translate_errors():
            await self._engine.check_health()
        await self._encode_one(self._reader.smallest, "health")

    def shut_down(self) -> None:
        """End vLLM's processes and the tokenizer's thread."""
        super().shut_down()
        self._engine.shutdown()


def _read_prompts(folder: str) -> Mapping[str, Any]:
    """Read the prompts that the model has for sentence-transformers; empty if there are none."""
    path = Path(folder) / "config_sentence_transformers.json"
    saved: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return saved
