import pytest

from deployments.engines.llm.token_bytes import TokenBytes
from tests.helpers.tiny_tokenizers import ByteLevelTokenizer, SentencePieceTokenizer


def test_byte_level_tokens_become_their_bytes_even_if_not_valid_utf_8() -> None:
    tokens = TokenBytes(ByteLevelTokenizer())

    assert [tokens.to_bytes(token) for token in (1, 2, 3, 9)] == [
        b" a",
        b"\xc3",
        b"\xa9",
        b"<end>",
    ]


def test_sentence_piece_tokens_become_their_bytes() -> None:
    tokens = TokenBytes(SentencePieceTokenizer())

    assert [tokens.to_bytes(token) for token in (1, 2)] == [b" a", b"\xc3"]


def test_unknown_token_id_has_no_bytes() -> None:
    assert TokenBytes(ByteLevelTokenizer()).to_bytes(77) == b""


@pytest.mark.parametrize("byte", [0x00, 0x20, 0x41, 0x7F, 0xAD, 0xFF])
def test_every_byte_survives_gpt_2_s_spelling(byte: int) -> None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokenizer = ByteLevelTokenizer({1: "Ġa", 5: bytes_to_unicode()[byte]})

    assert TokenBytes(tokenizer).to_bytes(5) == bytes([byte])
