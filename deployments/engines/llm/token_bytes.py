"""Token ids → the exact bytes they stand for, and vLLM's log probabilities → ours."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from api.ports.stream import TokenLogprob

TokenLogprobs = Mapping[int, Any] | None
"""vLLM's `Logprob` by token id: the token itself and the likeliest; None for a first token."""


class TokenBytes:
    """The bytes of every token of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """Use a tokenizer of transformers."""
        self._tokenizer = tokenizer
        self._cache: dict[int, bytes] = {}

    def to_bytes(self, token_id: int) -> bytes:
        """Return the token's bytes, which need not be valid UTF-8 on their own."""
        data = self._cache.get(token_id)
        if data is None:
            data = self._cache[token_id] = self._find_bytes(token_id)
        return data

    def _find_bytes(self, token_id: int) -> bytes:
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            return b""
        if token_id in self._special_ids or not isinstance(token, str):
            return str(token).encode()
        if self._is_byte_level:
            return bytes(self._byte_table[char] for char in token if char in self._byte_table)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])  # SentencePiece's byte fallback
        return token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self._tokenizer.all_special_ids) | frozenset(
            getattr(self._tokenizer, "added_tokens_decoder", {})
        )

    @cached_property
    def _is_byte_level(self) -> bool:
        """Whether the tokenizer spells bytes as GPT-2's does: a space is Ġ."""
        ids = self._tokenizer.encode(" a", add_special_tokens=False)
        return any(
            "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}" in token
            for token in self._tokenizer.convert_ids_to_tokens(ids)
        )

    @cached_property
    def _byte_table(self) -> dict[str, int]:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        return {char: byte for byte, char in bytes_to_unicode().items()}

    def to_logprobs(
        self, token_ids: Sequence[int], entries: Sequence[TokenLogprobs] | None, top: int
    ) -> tuple[TokenLogprob, ...]:
        """Convert the log probabilities of `token_ids`, with the `top` likeliest tokens of each."""
        if entries is None:
            return ()
        pairs = zip(token_ids, entries, strict=False)
        return tuple(self._to_logprob(token_id, entry, top) for token_id, entry in pairs)

    def _to_logprob(self, token_id: int, entry: TokenLogprobs, top: int) -> TokenLogprob:
        data = self.to_bytes(token_id)
        if entry is None or token_id not in entry:
            return TokenLogprob(data.decode(errors="replace"), None, data)
        likeliest = sorted(entry.items(), key=lambda item: item[1].rank or 0)[:top]
        others = tuple(self._convert(other_id, logprob) for other_id, logprob in likeliest)
        own = self._convert(token_id, entry[token_id])
        return TokenLogprob(own.text, own.logprob, own.data, others)

    def _convert(self, token_id: int, logprob: Any) -> TokenLogprob:
        data = self.to_bytes(token_id)
        text = logprob.decoded_token
        text = data.decode(errors="replace") if text is None else text
        return TokenLogprob(text, float(logprob.logprob), data)
