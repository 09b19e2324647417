"""The fewest tokens that a text can have, told without tokenizing it."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

_KEEPING_NORMALIZERS = frozenset(["ByteLevel", "Lowercase", "NFD", "NFKD", "Prepend"])
"""Give at least as many characters as they take."""
_COMPOSING_NORMALIZERS = frozenset(["NFC", "NFKC"])
_MAX_COMPOSED = 4
"""Most characters that Unicode composes to one."""
_KEEPING_PRE_TOKENIZERS = frozenset(["ByteLevel", "Digits", "Metaspace", "UnicodeScripts"])
"""Split texts and drop nothing."""
_SPLITTING_PRE_TOKENIZERS = frozenset(["Punctuation", "Split"])
"""Drop what they split at if their behavior is `Removed`."""


@dataclass(frozen=True, slots=True)
class LengthBound:
    """What one tokenizer can do at most to shorten a text."""

    max_chars_per_token: int
    """Most characters of a text that one token stands for."""
    dropped: str = ""
    """Characters for which there is no token: they vanish."""

    def min_tokens(self, text: str) -> int:
        """Return a number of tokens that the text certainly has."""
        chars = len(text) - sum(map(text.count, self.dropped))
        return -(-chars // self.max_chars_per_token)


def find_length_bound(backend: Any) -> LengthBound | None:
    """Find the bound of a tokenizer in its own description.

    None if there is no bound: some tokenizers drop blanks, shorten texts, or have one token for an
    unknown word of any length.

    Args:
        backend: a tokenizer of the tokenizers library that does not truncate.
    """
    spec = json.loads(backend.to_str())
    added = spec["added_tokens"]
    if any(token["lstrip"] or token["rstrip"] for token in added):
        return None  # such a token takes all blanks beside it
    pre_tokenizers = _flatten(spec["pre_tokenizer"], "pretokenizers")
    normalizers = _flatten(spec["normalizer"], "normalizers")
    is_byte_level = any(part["type"] == "ByteLevel" for part in (*pre_tokenizers, *normalizers))
    vocabulary = _to_tokens(spec["model"])
    dropped = _find_dropped(spec["model"], vocabulary, is_byte_level=is_byte_level)
    shrinking = [_find_shrinking(part) for part in normalizers]
    if dropped is None or None in shrinking or not all(map(_keeps_all, pre_tokenizers)):
        return None
    longest = max(map(len, (*vocabulary, *(token["content"] for token in added))))
    for factor in shrinking:
        longest *= factor or 1
    return LengthBound(longest, dropped)


def _flatten(part: Any, members: str) -> list[Any]:
    """Return a part of the tokenizer, or the parts of a sequence of them."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [inner for each in part[members] for inner in _flatten(each, members)]


def _find_shrinking(normalizer: Any) -> int | None:
    """How many characters become one at most; None if any number may."""
    kind = normalizer["type"]
    if kind in _KEEPING_NORMALIZERS:
        return 1
    if kind in _COMPOSING_NORMALIZERS:
        return _MAX_COMPOSED
    pattern = normalizer["pattern"].get("String") if kind == "Replace" else None
    if pattern is None or len(normalizer["content"]) < len(pattern):
        return None
    return 1


def _keeps_all(pre_tokenizer: Any) -> bool:
    kind = pre_tokenizer["type"]
    if kind in _SPLITTING_PRE_TOKENIZERS:
        return bool(pre_tokenizer["behavior"] != "Removed")
    return kind in _KEEPING_PRE_TOKENIZERS


def _to_tokens(model: Any) -> Collection[str]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: tokens and their scores
        return [token for token, _ in vocabulary]
    tokens: dict[str, int] = vocabulary
    return tokens


def _find_dropped(model: Any, vocabulary: Collection[str], *, is_byte_level: bool) -> str | None:
    """Return the characters that have no token; None if that may be any."""
    known = set(vocabulary)
    if model["type"] == "BPE" and is_byte_level:
        return _find_dropped_bytes(known)
    has_bytes = known.issuperset(f"<0x{byte:02X}>" for byte in range(256))
    return "" if model.get("byte_fallback") and has_bytes else None


def _find_dropped_bytes(known: Collection[str]) -> str | None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    missing = [byte for byte, char in bytes_to_unicode().items() if char not in known]
    # Each character beyond ASCII has a byte of these, so something of it is left.
    if any(0x80 <= byte < 0xC0 for byte in missing):
        return None
    return "".join(chr(byte) for byte in missing if byte < 0x80)
