"""The arguments of an embedding or ranking model (`deployments.app:embedding`)."""

from typing import Any, Literal

from pydantic import Field, model_validator

from deployments.config.base import Args, Dtype, ModelArgs


class EncoderOptions(Args):
    """How an encoder runs."""

    dtype: Dtype = "auto"
    device: str = Field("auto", description="`cpu`, `cuda`, …; auto takes a GPU if there is one")
    max_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="most tokens of one pass, padding included; without, 1024 on a CPU, else 16384",
    )
    max_tokens: int | None = Field(
        None, ge=1, description="most tokens of one text, where that is to be less than the model's"
    )
    pack_weights: bool = Field(
        True,
        description="on a CPU, weights are laid out for its matrix products once, not at each one; "
        "switch it off if a model cannot be loaded for it",
    )
    task: Literal["auto", "embed", "rerank"] = Field(
        "auto", description="rerank is a cross-encoder; auto reads it from the model's config.json"
    )
    prompt_name: str | None = Field(
        None, description="which of the model's own prompts goes before each text"
    )
    prompts: dict[str, str] = Field(
        default_factory=dict,
        description="what goes before texts of each input_type, such as `query` and `passage`",
    )
    dimensions: Literal["any"] | tuple[int, ...] | None = Field(
        None, description="what requests may shorten vectors to; without, what the model says"
    )


_OPTIONS_BESIDE_VLLM = frozenset({"max_tokens", "prompt_name", "prompts", "dimensions"})
"""What `VllmEncoderEngine` takes of them."""


class EmbeddingArgs(ModelArgs):
    """A model that turns text into vectors, or pairs of texts into scores."""

    runner: Literal["sentence-transformers", "vllm"] = Field(
        "sentence-transformers", description="what runs it; vllm is for decoders"
    )
    engine: EncoderOptions = EncoderOptions()
    vllm: dict[str, Any] = Field(
        default_factory=dict,
        description="with runner vllm: options of its AsyncEngineArgs, by their own names",
    )

    @model_validator(mode="after")
    def _check_runner(self) -> "EmbeddingArgs":
        if self.runner != "vllm":
            if self.vllm:
                raise ValueError("vllm takes effect with 'runner: vllm' only")
            return self
        if idle := sorted(self.engine.model_fields_set - _OPTIONS_BESIDE_VLLM):
            raise ValueError(
                f"with 'runner: vllm' these of engine have no effect: {', '.join(idle)}; its own "
                "options stand under vllm"
            )
        return self
