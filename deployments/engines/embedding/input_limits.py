"""Limits on what an encoder reads: per input, per request, and per call of the tokenizer."""

from collections.abc import Iterator, Sequence, Sized

from api.errors import ContextLengthExceededError, InvalidRequestError
from api.ports.embeddings import Truncation

PORTION_CHARS = 250_000
"""Characters of one tokenizer call, which cannot be interrupted and needs some 150 MB."""

_MAX_CHARS_PER_TOKEN = 64
"""Real text has fewer: what has more is too long, and need not be tokenized to know it."""
_MIN_CLIP_CHARS = 32_768
"""Shorter texts are always tokenized: a blob or a run of blanks may be a single token."""


def split_by_chars(sizes: Sequence[int], portion_chars: int = PORTION_CHARS) -> Iterator[slice]:
    """Split texts into runs of at most `portion_chars` characters, or of one longer text.

    Args:
        sizes: characters of each text.
        portion_chars: limit of one run.
    """
    start = chars = 0
    for index, size in enumerate(sizes):
        if index > start and chars + size > portion_chars:
            yield slice(start, index)
            start, chars = index, 0
        chars += size
    if sizes:
        yield slice(start, len(sizes))


def clip_chars(text: str, index: int, max_tokens: int, truncation: Truncation, param: str) -> str:
    """Drop the characters of a text that are certainly beyond `max_tokens`.

    Raises:
        ContextLengthExceededError: there are such characters, and truncation is not wanted.
    """
    max_chars = max(max_tokens * _MAX_CHARS_PER_TOKEN, _MIN_CLIP_CHARS)
    if len(text) > max_chars and not truncation.is_wanted:
        raise too_long(index, None, max_tokens, param)
    return text[:max_chars]


def max_input_tokens(truncation: Truncation, max_tokens: int) -> int:
    """How many tokens one input may have, of a model that takes `max_tokens`."""
    if not truncation.is_wanted:
        return max_tokens
    return min(truncation.max_tokens or max_tokens, max_tokens)


def to_param(name: str, index: int, count: int) -> str:
    """Name one of `count` inputs in an error: `input[3]`, or `input` if it is the only one."""
    return f"{name}[{index}]" if count > 1 else name


def too_long(
    index: int, tokens: int | None, max_tokens: int, param: str
) -> ContextLengthExceededError:
    """Build the error for one input; `tokens` is None if they have not been counted."""
    count = "more tokens" if tokens is None else f"{tokens} tokens, more"
    return ContextLengthExceededError(
        f"Input {index} has {count} than this model's maximum of {max_tokens}; set "
        "'truncate' to true to truncate it.",
        param=param,
    )


def check_total(sequences: Sequence[Sized], truncation: Truncation, param: str) -> None:
    """Check the limit on the tokens of a whole request.

    Raises:
        InvalidRequestError: the sequences have more tokens together.
    """
    total = sum(map(len, sequences))
    if truncation.max_total_tokens is not None and total > truncation.max_total_tokens:
        raise InvalidRequestError.value(
            param,
            f"all inputs together have {total} tokens, more than the limit of "
            f"{truncation.max_total_tokens} per request",
        )
