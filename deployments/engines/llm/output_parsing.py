"""What a model generates beside text: reasoning, tool calls, log probabilities, the prompt."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from api.ports.stream import Extra, FinishReason, TokenLogprob, ToolCallDelta
from api.ports.text import Sampling
from deployments.engines.llm.token_bytes import TokenBytes

if TYPE_CHECKING:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.parser import Parser


class ChoiceParser:
    """Parses one choice with the model's parser for reasoning and tool calls."""

    def __init__(
        self, parser: "Parser", request: "ChatCompletionRequest", *, is_streamed: bool
    ) -> None:
        """Own a parser, because parsers keep state.

        Args:
            parser: a new one of vLLM's.
            request: tells the parser which tools there are.
            is_streamed: whether `parse` is called for each delta, or once for the whole text.
        """
        self._parser = parser
        self._request = request
        self._is_streamed = is_streamed
        self._token_ids: list[int] = []
        self._has_calls = self._has_reasoning = False
        self.reasoning_tokens = 0
        """Complete once a finish reason has been parsed."""

    def parse(
        self, choice: "CompletionOutput", prompt_ids: Sequence[int], reason: FinishReason | None
    ) -> tuple[str, str, tuple[ToolCallDelta, ...], FinishReason | None]:
        """Return text, reasoning, pieces of tool calls, and the finish reason."""
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
            calls = tuple(map(_to_call_delta, message.tool_calls)) if message else ()
        else:
            self._parser.set_prompt_token_ids(list(prompt_ids))
            reasoning, text, whole_calls = self._parser.parse(
                choice.text, self._request, True, list(choice.token_ids)
            )
            calls = tuple(_to_call(index, call) for index, call in enumerate(whole_calls or ()))
        self._has_calls = self._has_calls or bool(calls)
        self._has_reasoning = self._has_reasoning or bool(reasoning)
        if reason is not None and self._has_reasoning:
            self.reasoning_tokens = self._count_reasoning_tokens()
        return text or "", reasoning or "", calls, self._to_finish_reason(reason)

    def _count_reasoning_tokens(self) -> int:
        """Count also with parsers of vLLM that return 0 if the prompt has the start marker."""
        counted: int = self._parser.count_reasoning_tokens(self._token_ids)
        reasoning_parser = self._parser.reasoning_parser
        if counted or reasoning_parser is None:
            return counted
        has_ended = reasoning_parser.is_reasoning_end(self._token_ids)
        content = reasoning_parser.extract_content_ids(self._token_ids) if has_ended else []
        return len(self._token_ids) - len(content)

    def _to_finish_reason(self, reason: FinishReason | None) -> FinishReason | None:
        """A call of the function that the client named ends with `stop`, as at OpenAI."""
        is_named = not isinstance(self._request.tool_choice, str)
        return "tool_calls" if reason == "stop" and self._has_calls and not is_named else reason


def _to_call_delta(delta: Any) -> ToolCallDelta:
    function = delta.function
    return ToolCallDelta(
        delta.index,
        delta.id,
        function.name if function else None,
        (function.arguments if function else None) or "",
    )


def _to_call(index: int, call: Any) -> ToolCallDelta:
    from vllm.renderers.chat_utils import make_tool_call_id

    return ToolCallDelta(index, call.id or make_tool_call_id(), call.name, call.arguments)


class OutputParser:
    """Parses all choices of one prompt."""

    def __init__(
        self,
        sampling: Sampling,
        tokens: TokenBytes,
        prompt_ids: Sequence[int],
        echo: str,
        new_choice_parser: Callable[[], ChoiceParser] | None,
    ) -> None:
        """Parse what the request asks for.

        Args:
            sampling: which log probabilities are wanted.
            tokens: of the model's tokenizer.
            prompt_ids: the prompt.
            echo: precedes the text of each choice.
            new_choice_parser: makes the parser of one choice; None if there is only text.
        """
        self._sampling = sampling
        self._tokens = tokens
        self._prompt_ids = prompt_ids
        self._echo = echo
        self._new_choice_parser = new_choice_parser
        self._choice_parsers: dict[int, ChoiceParser] = {}
        self._begun: set[int] = set()
        self._prompt_logprobs: list[Any] = []

    @property
    def reasoning_tokens(self) -> int:
        """Of all choices."""
        return sum(parser.reasoning_tokens for parser in self._choice_parsers.values())

    def parse(
        self, output: "RequestOutput", choice: "CompletionOutput", reason: FinishReason | None
    ) -> tuple[str, FinishReason | None, Extra | None]:
        """Return the text of a delta, its finish reason, and what else it holds."""
        if output.prompt_logprobs and len(self._prompt_logprobs) < len(self._prompt_ids):
            self._prompt_logprobs += output.prompt_logprobs
        text, reasoning = choice.text, ""
        calls: tuple[ToolCallDelta, ...] = ()
        is_wanted = self._sampling.max_tokens != 0
        if not is_wanted:
            text, reason = "", "length" if reason else None
        elif self._new_choice_parser is not None:
            parser = self._choice_parsers.get(choice.index) or self._new_choice_parser()
            self._choice_parsers[choice.index] = parser
            text, reasoning, calls, reason = parser.parse(choice, self._prompt_ids, reason)
        logprobs: tuple[TokenLogprob, ...] = ()
        if self._sampling.logprobs is not None and is_wanted:
            logprobs = self._tokens.to_logprobs(
                choice.token_ids, choice.logprobs, self._sampling.logprobs
            )
        prompt_logprobs: tuple[TokenLogprob, ...] = ()
        if choice.index not in self._begun:
            self._begun.add(choice.index)
            text = self._echo + text
            prompt_logprobs = self._to_prompt_logprobs()
        if not (reasoning or calls or logprobs or prompt_logprobs):
            return text, reason, None
        return text, reason, Extra(reasoning, calls, logprobs, prompt_logprobs)

    def _to_prompt_logprobs(self) -> tuple[TokenLogprob, ...]:
        if self._sampling.prompt_logprobs is None:
            return ()
        return self._tokens.to_logprobs(
            self._prompt_ids, self._prompt_logprobs, self._sampling.prompt_logprobs
        )
