"""The body of `POST /v1/chat/completions`. Source: OpenAI openapi.yaml."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator

from api.schema.chat_messages import Messages, check_tool_messages
from api.schema.common import REFUSED_OF_VLLM, TextRequest, TokenCount, at_most
from api.schema.json_schema import check_cost
from api.schema.tools import MAX_TOOLS, FunctionTool, ResponseFormat, ToolChoiceField, unsupported

_MAX_TOP_LOGPROBS = 20
_MAX_MODALITIES = 2
_MAX_PAIRS = 16
_MAX_TEMPLATE_OPTIONS = 16


def _check_store(value: bool) -> bool:
    if value:
        raise unsupported("The parameter 'store' can only be false: this service keeps no answers")
    return value


def _check_metadata(value: dict[str, str]) -> dict[str, str]:
    if any(len(key) > 64 or len(text) > 512 for key, text in value.items()):
        raise ValueError(f"at most {_MAX_PAIRS} pairs, of 64 and 512 characters")
    return value


class ChatRequest(TextRequest):
    """A conversation to be continued."""

    reported: ClassVar = frozenset(
        [
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "safety_identifier",
            "metadata",
        ]
    )
    refused: ClassVar = REFUSED_OF_VLLM | frozenset(
        [
            "audio",
            "add_generation_prompt",
            "chat_template",
            "continue_final_message",
            "documents",
            "echo",
            "media_io_kwargs",
            "mm_processor_kwargs",
            "return_prompt_text",
            "function_call",
            "functions",
            "moderation",
            "prediction",
            "verbosity",
            "web_search_options",
        ]
    )

    messages: Messages
    max_completion_tokens: TokenCount | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=_MAX_TOP_LOGPROBS)] = 0
    response_format: ResponseFormat | None = None
    tools: Annotated[list[FunctionTool], Field(min_length=1), at_most(MAX_TOOLS)] | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool = True
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    modalities: (
        Annotated[list[Literal["text"]], Field(min_length=1), at_most(_MAX_MODALITIES)] | None
    ) = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    store: Annotated[bool, AfterValidator(_check_store)] = False
    metadata: (
        Annotated[dict[str, str], AfterValidator(_check_metadata), at_most(_MAX_PAIRS)] | None
    ) = None

    # Extensions, by vLLM's names.
    include_reasoning: bool = True
    chat_template_kwargs: Annotated[dict[str, bool], at_most(_MAX_TEMPLATE_OPTIONS)] = Field(
        default_factory=dict
    )

    # Extensions of other services.
    loglikelihood: bool = False
    """Report the log probability of each token of the prompt, except the first."""

    @field_validator("messages", mode="after")
    @classmethod
    def _results_follow_calls(cls, messages: Any) -> Any:
        check_tool_messages(messages)
        return messages

    @field_validator("top_logprobs", mode="after")
    @classmethod
    def _needs_logprobs(cls, value: int, info: Any) -> int:
        if value and not info.data.get("logprobs", True):
            raise ValueError("it is only allowed when 'logprobs' is true")
        return value

    @field_validator("tool_choice", mode="after")
    @classmethod
    def _names_a_tool(cls, choice: Any, info: Any) -> Any:
        """Fields are validated in order, so `tools` are known here."""
        tools = info.data.get("tools", [])  # None if not given; absent if invalid
        if tools is None and choice is not None and choice.type != "none":
            raise ValueError("it is only allowed together with 'tools'")
        names = {tool.function.name for tool in tools or []}
        chosen = [choice.function] if choice and choice.function else []
        if choice and choice.allowed_tools:
            chosen = [tool.function for tool in choice.allowed_tools.tools]
        if names and any(function.name not in names for function in chosen):
            raise ValueError("it names a function that is not among 'tools'")
        if choice and (choice.type == "required" or choice.allowed_tools):
            check_cost([tool.function.parameters or {} for tool in tools or []])
        return choice

    @field_validator("tools", mode="after")
    @classmethod
    def _names_differ(cls, tools: Any) -> Any:
        functions = [tool.function for tool in tools]
        if len({function.name for function in functions}) < len(functions):
            raise ValueError("two functions have the same name")
        # The engine compiles the schemas of all strict functions into one grammar.
        check_cost([each.parameters or {} for each in functions if each.strict])
        return tools

    @property
    def compiled_schemas(self) -> list[dict[str, Any]]:
        """The schemas that an engine compiles: of the answer, of forced and of strict calls."""
        answer = self.response_format.answer_schema if self.response_format else None
        choice = self.tool_choice
        is_forced = choice is not None and choice.type not in ("none", "auto")
        functions = [tool.function for tool in self.tools or []]
        if choice and choice.function:
            functions = [each for each in functions if each.name == choice.function.name]
        calls = [each.parameters or {} for each in functions if is_forced or each.strict]
        return ([] if answer is None else [answer]) + calls
