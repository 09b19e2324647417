"""More than text in what a model writes: thoughts, tool calls, log probabilities, the prompt."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from api.ports.stream import Extra, FinishReason, TokenLogprob, ToolCallDelta
from api.ports.text import Sampling
from deployments.engines.llm.token_bytes import TokenTexts

if TYPE_CHECKING:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.parser import Parser


class ChoiceReader:
    """Reads one choice with the model's parser for thoughts and tool calls."""

    def __init__(
        self, parser: "Parser", request: "ChatCompletionRequest", *, is_streamed: bool
    ) -> None:
        """Read with a parser that is this choice's alone: they keep state."""
        self._parser = parser
        self._request = request
        self._is_streamed = is_streamed
        self._token_ids: list[int] = []
        self._has_calls = self._has_reasoning = False
        self.reasoning_tokens = 0

    def read(
        self, choice: "CompletionOutput", prompt_ids: Sequence[int], reason: FinishReason | None
    ) -> tuple[str, str, tuple[ToolCallDelta, ...], FinishReason | None]:
        """Text, thoughts, pieces of tool calls, and why it ended."""
        self._token_ids += choice.token_ids
        if self._is_streamed:
            message = self._parser.parse_delta(
                choice.text,
                list(choice.token_ids),
                self._request,
                list(prompt_ids),
                finished=reason is not None,
            )
            text = (message and message.content) or ""
            reasoning = (message and message.reasoning) or ""
            calls = tuple(map(_to_piece, message.tool_calls)) if message else ()
        else:
            self._parser.set_prompt_token_ids(list(prompt_ids))
            reasoning, text, found = self._parser.parse(
                choice.text, self._request, True, list(choice.token_ids)
            )
            calls = tuple(_to_call(index, call) for index, call in enumerate(found or ()))
        self._has_calls = self._has_calls or bool(calls)
        self._has_reasoning = self._has_reasoning or bool(reasoning)
        if reason is not None and self._has_reasoning:
            self.reasoning_tokens = self._count_reasoning_tokens()
        return text or "", reasoning or "", calls, self._to_reason(reason)

    def _count_reasoning_tokens(self) -> int:
        """Some parsers of vLLM count only from a mark that stands in the prompt already."""
        counted: int = self._parser.count_reasoning_tokens(self._token_ids)
        thoughts = self._parser.reasoning_parser
        if counted or thoughts is None:
            return counted
        is_ended = thoughts.is_reasoning_end(self._token_ids)
        content = thoughts.extract_content_ids(self._token_ids) if is_ended else []
        return len(self._token_ids) - len(content)

    def _to_reason(self, reason: FinishReason | None) -> FinishReason | None:
        """A call that the caller has named ends with `stop`, as at OpenAI."""
        is_free = isinstance(self._request.tool_choice, str)
        return "tool_calls" if reason == "stop" and self._has_calls and is_free else reason


def _to_piece(piece: Any) -> ToolCallDelta:
    function = piece.function
    return ToolCallDelta(
        piece.index,
        piece.id,
        function.name if function else None,
        (function.arguments if function else None) or "",
    )


def _to_call(index: int, call: Any) -> ToolCallDelta:
    from vllm.renderers.chat_utils import make_tool_call_id

    return ToolCallDelta(index, call.id or make_tool_call_id(), call.name, call.arguments)


class PromptReading:
    """Reads all choices of one prompt."""

    def __init__(
        self,
        sampling: Sampling,
        texts: TokenTexts,
        prompt_ids: Sequence[int],
        echoed: str,
        new_reader: Callable[[], ChoiceReader] | None,
    ) -> None:
        """Read what a request has asked for.

        Args:
            sampling: says which log probabilities are wanted, and whether the prompt is.
            texts: of the model's tokens.
            prompt_ids: the prompt.
            echoed: what each choice begins with.
            new_reader: makes the reader of a choice; None if there are only texts.
        """
        self._sampling = sampling
        self._texts = texts
        self._prompt_ids = prompt_ids
        self._echoed = echoed
        self._new_reader = new_reader
        self._readers: dict[int, ChoiceReader] = {}
        self._begun: set[int] = set()
        self._prompt_logprobs: list[Any] = []

    @property
    def reasoning_tokens(self) -> int:
        """Of all choices."""
        return sum(reader.reasoning_tokens for reader in self._readers.values())

    def read(
        self, output: "RequestOutput", choice: "CompletionOutput", reason: FinishReason | None
    ) -> tuple[str, FinishReason | None, Extra | None]:
        """What a piece holds."""
        if output.prompt_logprobs and len(self._prompt_logprobs) < len(self._prompt_ids):
            self._prompt_logprobs += output.prompt_logprobs
        text, reasoning = choice.text, ""
        calls: tuple[ToolCallDelta, ...] = ()
        is_wanted = self._sampling.max_tokens != 0
        if not is_wanted:
            text, reason = "", "length" if reason else None
        elif self._new_reader is not None:
            reader = self._readers.get(choice.index) or self._new_reader()
            self._readers[choice.index] = reader
            text, reasoning, calls, reason = reader.read(choice, self._prompt_ids, reason)
        logprobs: tuple[TokenLogprob, ...] = ()
        if self._sampling.logprobs is not None and is_wanted:
            logprobs = self._texts.to_logprobs(
                choice.token_ids, choice.logprobs, self._sampling.logprobs
            )
        prompt_logprobs: tuple[TokenLogprob, ...] = ()
        if choice.index not in self._begun:
            self._begun.add(choice.index)
            text = self._echoed + text
            prompt_logprobs = self._read_prompt()
        if not (reasoning or calls or logprobs or prompt_logprobs):
            return text, reason, None
        return text, reason, Extra(reasoning, calls, logprobs, prompt_logprobs)

    def _read_prompt(self) -> tuple[TokenLogprob, ...]:
        if self._sampling.prompt_logprobs is None:
            return ()
        return self._texts.to_logprobs(
            self._prompt_ids, self._prompt_logprobs, self._sampling.prompt_logprobs
        )
