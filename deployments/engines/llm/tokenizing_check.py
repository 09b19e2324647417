"""A check of what vLLM's renderers have written, before vLLM tokenizes it."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from api.ports.tenancy import RequestContext

CONTEXT: ContextVar[RequestContext] = ContextVar("CONTEXT", default=RequestContext())  # noqa: B039
"""Whose conversation is being rendered: vLLM does not pass it through."""


def check_before_tokenizing(
    renderer: Any, check: Callable[[str, RequestContext], Awaitable[None]]
) -> None:
    """Make a renderer call `check` with the text that it is about to tokenize.

    vLLM's own check of the length is sound for no tokenizer that drops characters, and behind it
    vLLM tokenizes the text as a whole. Source: vLLM 0.32, renderers/base.py, `BaseRenderer`.
    """
    tokenize = renderer._tokenize_prompt_async

    async def checked(prompt: Any, params: Any) -> Any:
        await check(prompt["prompt"], CONTEXT.get())
        return await tokenize(prompt, params)

    renderer._tokenize_prompt_async = checked
