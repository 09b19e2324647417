"""Encoders of random weights, made on the spot: for what an engine does to any of them."""

from pathlib import Path
from typing import Any

_LINES = ("the a one two three four five six seven eight nine ten", "query passage : long short")
WORDS = [word for line in _LINES for word in line.split()]
MAX_TOKENS = 64


def _make_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    whole.save_pretrained(folder)
    return whole


def _make_config(**members: Any) -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.5,
        **members,
    )


def make_encoder(folder: Path, **pooling: Any) -> None:
    """A BERT with mean pooling and normalisation, which may be shortened to 8 dimensions."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Normalize,
        Pooling,
        Transformer,
    )
    from transformers import BertModel

    torch.manual_seed(0)
    bare = folder / "bare"
    _make_tokenizer(bare)
    config = _make_config(is_matryoshka=True, matryoshka_dimensions=[8])
    BertModel(config).eval().save_pretrained(bare)
    modules = [Transformer(str(bare)), Pooling(32, "mean", **pooling), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))


def make_cross_encoder(folder: Path, labels: int = 1) -> None:
    """A BERT that scores pairs."""
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    _make_tokenizer(folder)
    config = _make_config(num_labels=labels)
    BertForSequenceClassification(config).eval().save_pretrained(folder)
