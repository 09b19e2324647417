"""The arguments of an embedding or ranking model (`deployments.app:embedding`)."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from deployments.config.base import Args, Dtype, ModelArgs, refuse_trust_options


class EncoderOptions(Args):
    """How an encoder runs."""

    dtype: Dtype = Field("auto", description="`auto`: bfloat16 if the hardware supports it")
    device: str = Field("auto", description="`cpu`, `cuda`, …; `auto` takes a GPU if there is one")
    max_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="most tokens of one forward pass, padding included; without it 1024 on a "
        "CPU and 16384 on a GPU",
    )
    max_tokens: int | None = Field(
        None, ge=1, description="most tokens of one text, if lower than the model's own limit"
    )
    pack_weights: bool = Field(
        True,
        description="on a CPU, prepack weights for oneDNN when the model loads; switch it off if a "
        "model fails to load with it",
    )
    task: Literal["auto", "embed", "rerank"] = Field(
        "auto",
        description="`rerank` is a cross-encoder; `auto` reads the task from the model's "
        "config.json",
    )
    prompt_name: str | None = Field(
        None, description="which of the model's own prompts to prepend to every text"
    )
    prompts: dict[str, str] = Field(
        default_factory=dict,
        description="prompt to prepend by `input_type`, such as `query` and `passage`",
    )
    dimensions: Literal["any"] | tuple[int, ...] | None = Field(
        None,
        description="lengths that requests may shorten vectors to, or `any`; without it those "
        "in the model's config.json",
    )


_OPTIONS_BESIDE_VLLM = frozenset({"max_tokens", "prompt_name", "prompts", "dimensions"})
"""The options that `VllmEncoderEngine` honours; vLLM has its own for the others."""


class EmbeddingArgs(ModelArgs):
    """A model that converts texts to vectors, or pairs of texts to scores."""

    runner: Literal["sentence-transformers", "vllm"] = Field(
        "sentence-transformers", description="`vllm` runs decoders, such as Qwen3-Embedding"
    )
    engine: EncoderOptions = Field(EncoderOptions(), description="how the encoder runs")
    vllm: dict[str, Any] = Field(
        default_factory=dict,
        description="with `runner: vllm`: options of vLLM's `AsyncEngineArgs`, by their own names",
    )

    @field_validator("vllm")
    @classmethod
    def _check_vllm(cls, vllm: dict[str, Any]) -> dict[str, Any]:
        refuse_trust_options(vllm, ["trust_remote_code"])
        return vllm

    @model_validator(mode="after")
    def _check_runner(self) -> "EmbeddingArgs":
        if self.runner != "vllm":
            if self.vllm:
                raise ValueError("vllm takes effect with 'runner: vllm' only")
            return self
        if idle := sorted(self.engine.model_fields_set - _OPTIONS_BESIDE_VLLM):
            raise ValueError(
                f"with 'runner: vllm' these of engine have no effect: {', '.join(idle)}; options "
                "of vLLM stand under vllm"
            )
        return self
