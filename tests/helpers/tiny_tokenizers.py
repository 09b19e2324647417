"""Tokenizers of a few tokens, with the methods of transformers' that are used."""

from collections.abc import Mapping
from typing import Any

_TOKENS = {1: "Ġa", 2: "Ã", 3: "©", 9: "<end>"}


class ByteLevelTokenizer:
    """Token 1 is " a", 2 and 3 are the two bytes of é, 9 is special."""

    all_special_ids = (9,)

    def __init__(self, tokens: Mapping[int, str] = _TOKENS) -> None:
        self._tokens = tokens

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return (
            [self._tokens[each] for each in ids] if isinstance(ids, list) else self._tokens.get(ids)
        )

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [1]


class SentencePieceTokenizer(ByteLevelTokenizer):
    """Token 1 is " a", 2 is the first byte of é."""

    def __init__(self) -> None:
        super().__init__({1: "▁a", 2: "<0xC3>"})


def make_byte_tokenizer(cls: type | None = None) -> Any:
    """Make a fast tokenizer of bytes, whose texts begin with `<s>`, its longest token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, **{char: number + 1 for number, char in enumerate(alphabet)}}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>"])
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return (cls or PreTrainedTokenizerFast)(tokenizer_object=backend, bos_token="<s>")
