"""The arguments of a language model (`deployments.app:llm`)."""

from typing import Annotated, Any

from pydantic import Field

from api.registry import UsagePlacement
from deployments.config.base import MODEL_ID, Args, ModelArgs


class AdapterArgs(Args):
    """A LoRA adapter of an LLM."""

    id: Annotated[str, Field(min_length=1, max_length=128, pattern=f"^{MODEL_ID}$")]
    source: Annotated[str, Field(min_length=1)]


class LlmArgs(ModelArgs):
    """A model that writes text, run by vLLM."""

    engine: dict[str, Any] = Field(
        default_factory=dict, description="options of vLLM's AsyncEngineArgs, by their own names"
    )
    tool_call_parser: str | None = Field(
        None, description="vLLM's parser of the model's tool calls, such as hermes or llama3_json"
    )
    chat_template: str | None = Field(
        None, description="a file with a Jinja template that replaces the model's own"
    )
    template_options: frozenset[str] = Field(
        frozenset(),
        description="switches of the template that requests may set by chat_template_kwargs",
    )
    default_max_tokens: int | None = Field(
        None, ge=1, description="max_tokens of a request that does not say"
    )
    stream_usage: UsagePlacement = Field(
        "own_chunk", description="own_chunk as at OpenAI, or last_chunk: on the last content"
    )
    adapters: tuple[AdapterArgs, ...] = Field((), description="LoRA adapters: id and source")
    adapters_dir: str | None = Field(
        None, description="a folder whose subfolders are LoRA adapters too; looked at as it changes"
    )
    stall_timeout_s: float = Field(
        120.0, gt=0, description="work outstanding and no token for so long: restart the replica"
    )
