"""Token ids → the very bytes that they stand for, and what vLLM says of their probability."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from api.ports.stream import TokenLogprob

LogprobsOfToken = Mapping[int, Any] | None
"""vLLM's `Logprob` by token id: the token itself and the likeliest; None for a first token."""


class TokenTexts:
    """Knows the bytes of every token of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a tokenizer of transformers."""
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}

    def to_bytes(self, token_id: int) -> bytes:
        """The token's bytes, which alone need not be valid UTF-8."""
        data = self._known.get(token_id)
        if data is None:
            data = self._known[token_id] = self._find_bytes(token_id)
        return data

    def _find_bytes(self, token_id: int) -> bytes:
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            return b""
        if token_id in self._special or not isinstance(token, str):
            return str(token).encode()
        if self._is_byte_level:
            return bytes(BYTES[char] for char in token if char in BYTES)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])  # SentencePiece's byte fallback
        return token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self._tokenizer.all_special_ids) | frozenset(
            getattr(self._tokenizer, "added_tokens_decoder", {})
        )

    @cached_property
    def _is_byte_level(self) -> bool:
        """GPT-2's way to write bytes: a space is Ġ."""
        ids = self._tokenizer.encode(" a", add_special_tokens=False)
        return any(
            "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}" in token
            for token in self._tokenizer.convert_ids_to_tokens(ids)
        )

    def to_logprobs(
        self, token_ids: Sequence[int], entries: Sequence[LogprobsOfToken] | None, top: int
    ) -> tuple[TokenLogprob, ...]:
        """What is known of each token, with the `top` likeliest beside it."""
        if entries is None:
            return ()
        pairs = zip(token_ids, entries, strict=False)
        return tuple(self._to_logprob(token_id, entry, top) for token_id, entry in pairs)

    def _to_logprob(self, token_id: int, entry: LogprobsOfToken, top: int) -> TokenLogprob:
        data = self.to_bytes(token_id)
        if entry is None or token_id not in entry:
            return TokenLogprob(data.decode(errors="replace"), None, data)
        likeliest = sorted(entry.items(), key=lambda item: item[1].rank or 0)[:top]
        others = tuple(self._to_one(other_id, known) for other_id, known in likeliest)
        own = self._to_one(token_id, entry[token_id])
        return TokenLogprob(own.text, own.logprob, own.data, others)

    def _to_one(self, token_id: int, known: Any) -> TokenLogprob:
        data = self.to_bytes(token_id)
        text = known.decoded_token
        text = data.decode(errors="replace") if text is None else text
        return TokenLogprob(text, float(known.logprob), data)


def _to_byte_table() -> dict[str, int]:
    """The characters that stand for bytes. Source: GPT-2, encoder.py, `bytes_to_unicode`."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in plain]
    table = {chr(byte): byte for byte in plain}
    return table | {chr(256 + number): byte for number, byte in enumerate(shifted)}


BYTES = _to_byte_table()
