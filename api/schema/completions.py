"""The body of `POST /v1/completions`. Source: OpenAI openapi.yaml."""

from api.schema.common import TextRequest, Texts

UNSUPPORTED = frozenset(["best_of", "echo", "logit_bias", "logprobs", "suffix"])
"""OpenAI's parameters that cannot be honoured yet: refused by name, never dropped."""


class CompletionRequest(TextRequest):
    """Prompts to be continued."""

    prompt: Texts
