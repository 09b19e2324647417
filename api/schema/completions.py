"""The body of `POST /v1/completions`. Source: OpenAI openapi.yaml."""

from api.schema.common import Texts, TextRequest

UNSUPPORTED = frozenset("best_of echo logit_bias logprobs suffix".split())
"""OpenAI's parameters that cannot be honoured yet: refused by name, never dropped."""


class CompletionRequest(TextRequest):
    """Prompts to be continued."""

    prompt: Texts
