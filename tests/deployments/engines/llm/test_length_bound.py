"""The bound holds for what tokenizers really do, and there is none where it would not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from deployments.engines.llm.length_bound import LengthBound, find_length_bound

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SPACE = "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"


def make_bpe(tokens: tuple[str, ...] = (), without: str = "", **options: Any) -> Tokenizer:
    """A byte-level BPE that merges `ab`, `abc` and two spaces, besides further tokens."""
    merged = ["ab", "abc", SPACE * 2, *tokens]
    vocabulary = {
        token: number
        for number, token in enumerate([*(each for each in BYTES if each not in without), *merged])
    }
    merges = [("a", "b"), ("ab", "c"), (SPACE, SPACE)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, **options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def normalized(normalizer: Any) -> Tokenizer:
    tokenizer = make_bpe()
    tokenizer.normalizer = normalizer
    return tokenizer


def split(pre_tokenizer: Any) -> Tokenizer:
    tokenizer = make_bpe()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizer, byte_level])
    return tokenizer


def with_added(token: AddedToken) -> Tokenizer:
    tokenizer = make_bpe()
    tokenizer.add_special_tokens([token])
    return tokenizer


def make_unigram(*, byte_fallback: bool) -> Tokenizer:
    pieces = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256)), ("ab", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


BOUNDED = {
    "bytes": make_bpe(),
    "special": with_added(AddedToken("<|end of the text|>", special=True)),
    "NFC": normalized(normalizers.NFC()),
    "NFKC": normalized(normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
    "replace": normalized(normalizers.Replace(" ", "__")),
    "digits": split(pre_tokenizers.Digits(individual_digits=True)),
    "regex": split(pre_tokenizers.Split(Regex(r"\\s+"), "isolated")),
    "missing": make_bpe(without="\u0106" + "\u00ff"),  # for the bytes 0x06 and 0xff
    "fallback": make_unigram(byte_fallback=True),
}


@pytest.mark.parametrize("name", BOUNDED)
@given(
    text=st.text(max_size=80)
    | st.text("abc \x06\u0301\u0345\u0313\u03b1\u1100\u1161\u11a8", max_size=200)
)
def test_no_text_has_fewer_tokens_than_its_bound(name: str, text: str) -> None:
    tokenizer = BOUNDED[name]
    bound = find_length_bound(tokenizer)

    assert bound is not None
    assert bound.min_tokens(text) <= len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_bound_is_the_longest_token() -> None:
    assert find_length_bound(BOUNDED["bytes"]) == LengthBound(3)
    assert find_length_bound(BOUNDED["special"]) == LengthBound(19)
    assert find_length_bound(BOUNDED["NFC"]) == LengthBound(12)


def test_characters_without_a_token_are_not_counted() -> None:
    bound = find_length_bound(BOUNDED["missing"])

    assert bound == LengthBound(3, "\x06")
    assert bound.min_tokens("\x06" * 1000 + "abcd") == 2


@pytest.mark.parametrize(
    "tokenizer",
    [
        with_added(AddedToken("<mask>", lstrip=True)),
        with_added(AddedToken("<mask>", rstrip=True)),
        normalized(normalizers.Strip()),
        normalized(normalizers.Replace("  ", " ")),
        normalized(normalizers.Replace(Regex(" +"), "  ")),
        normalized(normalizers.BertNormalizer()),
        split(pre_tokenizers.WhitespaceSplit()),
        split(pre_tokenizers.Split(" ", "removed")),
        make_bpe(without="\u0140"),  # a byte that may be all of a character that is left
        make_unigram(byte_fallback=False),
        Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")),
        Tokenizer(models.BPE({"a": 0}, [])),
    ],
    ids=[
        *("lstrip", "rstrip", "strip", "shorter", "regex", "bert"),
        *("blanks", "removed", "bytes", "unknown", "words", "dropped"),
    ],
)
def test_tokenizer_that_may_shorten_any_text_has_no_bound(tokenizer: Tokenizer) -> None:
    assert find_length_bound(tokenizer) is None
