"""The port to language models; requests and results are plain data that crosses handles.

Numbers are within their ranges, because the schema has validated them; None means "not given".
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from api.ports.stream import ModelStream, TextDelta, Usage
from api.ports.tenancy import RequestContext


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An image file (PNG, JPEG or WebP) in the content of a message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call of the model; `arguments` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `content` is a text, or texts and images in order."""

    role: str
    content: str | tuple[str | ImageInput, ...] | None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


Choice = Literal["none", "auto", "required", "named"]


@dataclass(frozen=True, slots=True)
class Tools:
    """The functions that the model may call, and which it must call."""

    tools: tuple[Tool, ...]
    choice: Choice = "auto"
    name: str | None = None
    """The function to call if `choice` is `named`."""
    is_parallel: bool = True
    """Whether one answer may contain several calls."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, which the model's chat template renders."""

    messages: tuple[Message, ...]
    tools: Tools | None = None
    reasoning_effort: str | None = None
    template_options: dict[str, bool] = field(default_factory=dict)
    """Switches of the chat template, such as `enable_thinking`."""


Prompt = str | tuple[int, ...] | Conversation
"""A text, token ids of the model's tokenizer, or a conversation."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens; None stands for the default of the model's generation config."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    max_tokens: int | None = None
    default_max_tokens: int | None = None
    """Used when `max_tokens` is None, capped to the remaining context; None is all of it."""
    min_tokens: int = 0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] | None = None
    bad_words: tuple[str, ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    json_schema: dict[str, Any] | None = None
    """Schema that the answer must match."""
    schema_cost_ms: float = 0.0
    """Estimated time of compiling the schemas of the answer and of tools, on a slow core."""
    logprobs: int | None = None
    """Report the log probability of each token, and of this many most likely tokens."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt, in the first delta of each choice."""
    echo: bool = False
    """Start each choice with the prompt."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One request for text: `sampling.n` choices for each prompt.

    Choices are numbered by prompt first: `index = prompt_index * n + j`.
    """

    request_id: str
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    adapter: str | None = None
    """Name of a LoRA adapter of the model."""
    context: RequestContext = field(default_factory=RequestContext)


@dataclass(frozen=True, slots=True)
class Completion:
    """The whole answer; after a stream `choices` is empty, because the deltas had the text."""

    choices: tuple[TextDelta, ...]
    usage: Usage


TextStream = ModelStream[TextDelta, Completion]
"""A generation under way; its result has the usage, and no choices."""


class LlmBackend(Protocol):
    """A model that generates text."""

    async def complete(self, generation: Generation) -> Completion:
        """Generate the whole answer. Cancelling the call stops the generation."""

    def stream(self, generation: Generation) -> TextStream:
        """Generate the answer and stream it."""
