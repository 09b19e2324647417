"""What is asked of a model that writes text, and what comes back: plain data that crosses handles.

Numbers are within their ranges and None means "not given": the schema has seen to that.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from api.ports.stream import TextDelta, Usage
from api.ports.tenancy import RequestContext


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An encoded picture (PNG, JPEG or WebP) among the texts of a message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model has made; `arguments` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `content` is a text, or texts and pictures in order."""

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
    """The functions on offer, and what is to become of them."""

    tools: tuple[Tool, ...]
    choice: Choice = "auto"
    name: str | None = None
    """The one to call, if `choice` is `named`."""
    is_parallel: bool = True
    """Whether one answer may hold several calls."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns to be rendered with the model's own chat template."""

    messages: tuple[Message, ...]
    tools: Tools | None = None
    reasoning_effort: str | None = None
    template_options: dict[str, bool] = field(default_factory=dict)
    """Switches of the chat template, such as `enable_thinking`."""


Prompt = str | tuple[int, ...] | Conversation
"""Text, token ids as the model's tokenizer counts them, or a conversation."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. None leaves a value to the model's own generation config."""

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
    """What `max_tokens` is if it is None, and if so much fits the context; else all that fits."""
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
    """What the answer must be valid against."""
    logprobs: int | None = None
    """Report the log probability of each token, and of so many of the likeliest beside it."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens, with the first delta of each choice."""
    echo: bool = False
    """Begin each choice with the prompt."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One request for text: every prompt is continued `sampling.n` times.

    Choices are numbered prompt-major: `index = prompt_number * n + j`.
    """

    request_id: str
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    adapter: str | None = None
    """The name of a LoRA adapter of the model."""
    context: RequestContext = field(default_factory=RequestContext)


@dataclass(frozen=True, slots=True)
class Completion:
    """The whole answer. After a stream `choices` is empty: the deltas have carried the text."""

    choices: tuple[TextDelta, ...]
    usage: Usage


class TextStream(Protocol):
    """A generation under way."""

    def __aiter__(self) -> AsyncIterator[Sequence[TextDelta]]:
        """Yield what has come since the last look, in order, until all of it has.

        Raises: ApiError when the generation fails half-way.
        """

    async def aclose(self) -> None:
        """Give up: the engine stops working on it. Safe at any time, also after the end."""

    @property
    def completion(self) -> Completion:
        """The final word; there only once the iteration has ended."""


class LlmBackend(Protocol):
    """A model that writes text."""

    async def complete(self, generation: Generation) -> Completion:
        """Write the whole answer. Cancelling this call stops the work."""

    def stream(self, generation: Generation) -> TextStream:
        """Write the answer piece by piece."""
