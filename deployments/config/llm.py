"""The arguments of a language model (`deployments.app:llm`)."""

from typing import Annotated, Any, Self

from pydantic import Field, field_validator

from api.registry import UsagePlacement
from deployments.config.base import MODEL_ID, Args, ModelArgs, refuse_trust_options


class AdapterArgs(Args):
    """A LoRA adapter of an LLM."""

    id: Annotated[str, Field(min_length=1, max_length=128, pattern=f"^{MODEL_ID}$")] = Field(
        description="adapter name that clients send"
    )
    source: Annotated[str, Field(min_length=1)] = Field(
        description="local folder or Hugging Face id"
    )


class LlmArgs(ModelArgs):
    """A language model, run by vLLM."""

    live_keys = ModelArgs.live_keys | {
        "adapters",
        "default_max_tokens",
        "stream_usage",
        "template_options",
    }

    engine: dict[str, Any] = Field(
        default_factory=dict, description="options of vLLM's `AsyncEngineArgs`, by their own names"
    )
    tool_call_parser: str | None = Field(
        None, description="vLLM tool parser for calls the model makes by itself, such as `hermes`"
    )
    chat_template: str | None = Field(
        None, description="file with a Jinja template that replaces the model's own"
    )
    template_options: frozenset[str] = Field(
        frozenset(),
        description="template switches that requests may set through `chat_template_kwargs`",
    )
    default_max_tokens: int | None = Field(
        None,
        ge=1,
        description="`max_tokens` of a request without one; else a chat may fill the context, "
        "and a completion has 16",
    )
    stream_usage: UsagePlacement = Field(
        "own_chunk",
        description="where a stream reports usage: `own_chunk` as OpenAI does, or `last_chunk` "
        "with content",
    )
    adapters: tuple[AdapterArgs, ...] = Field((), description="LoRA adapters")
    adapters_dir: str | None = Field(
        None,
        description="folder whose subfolders are LoRA adapters; new ones are listed within 2 s",
    )
    stall_timeout_s: float = Field(
        120.0,
        gt=0,
        description="restart the replica after this long with open requests and no token",
    )

    @field_validator("engine")
    @classmethod
    def _check_engine(cls, engine: dict[str, Any]) -> dict[str, Any]:
        refuse_trust_options(engine, ["trust_remote_code"])
        return engine

    @property
    def takes_adapters(self) -> bool:
        """Whether the engine is loaded with room for LoRA adapters, which none can be without."""
        return bool(self.adapters or self.adapters_dir or self.engine.get("enable_lora"))

    def find_change_problem(self, changed: Self) -> str | None:
        """See `Args`."""
        if changed.adapters and not self.takes_adapters:
            return (
                "adapters: the model has been loaded without any; set 'adapters_dir' or 'engine: "
                "{enable_lora: true}' under args"
            )
        return None
