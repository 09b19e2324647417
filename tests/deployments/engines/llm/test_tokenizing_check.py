from types import SimpleNamespace
from typing import Any

import pytest

from api.errors import ContextLengthExceededError
from api.ports.tenancy import RequestContext
from deployments.engines.llm.tokenizing_check import CONTEXT, check_before_tokenizing

PROMPT = {"prompt": "written by the template"}


def make_renderer() -> Any:
    async def tokenize(prompt: Any, params: Any) -> Any:
        return {**prompt, "prompt_token_ids": [1]}

    return SimpleNamespace(_tokenize_prompt_async=tokenize)


async def test_text_is_checked_before_the_renderer_tokenizes_it() -> None:
    checked: list[tuple[str, str]] = []

    async def check(text: str, context: RequestContext) -> None:
        checked.append((text, context.tenant))

    renderer = make_renderer()
    check_before_tokenizing(renderer, check)
    CONTEXT.set(RequestContext(tenant="a"))
    prompt = await renderer._tokenize_prompt_async(PROMPT, None)

    assert checked == [("written by the template", "a")]
    assert prompt["prompt_token_ids"] == [1]


async def test_refused_text_is_not_tokenized() -> None:
    async def check(text: str, context: RequestContext) -> None:
        raise ContextLengthExceededError("too long")

    renderer = make_renderer()
    check_before_tokenizing(renderer, check)

    with pytest.raises(ContextLengthExceededError):
        await renderer._tokenize_prompt_async(PROMPT, None)
