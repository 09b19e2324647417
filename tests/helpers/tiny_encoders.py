"""Encoders of random weights, made on the spot, to test what an engine does with any encoder."""

import threading
from pathlib import Path
from typing import Any

_LINES = ("the a one two three four five six seven eight nine ten", "query passage : long short")
WORDS = [word for line in _LINES for word in line.split()]
MAX_TOKENS = 64


class CountingTokenizer:
    """A tokenizer of transformers that records its batches, and can be held up."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.batches: list[list[str]] = []
        self.threads: set[threading.Thread] = set()
        self.has_begun, self.may_continue = threading.Event(), threading.Event()
        self.may_continue.set()

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, texts: Any, *others: Any, **options: Any) -> Any:
        self.batches.append(texts)
        self.threads.add(threading.current_thread())
        self.has_begun.set()
        self.may_continue.wait(5)
        return self._tokenizer(texts, *others, **options)

    def num_special_tokens_to_add(self, **options: Any) -> int:
        return int(self._tokenizer.num_special_tokens_to_add(**options))


def make_tokenizer(folder: Path, *more: str) -> Any:
    """Tokenizer of `WORDS` and `more`: [CLS] text [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS, *more])}
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
    """BERT with mean pooling and normalization; vectors may be shortened to 8 dimensions."""
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
    make_tokenizer(bare)
    config = _make_config(is_matryoshka=True, matryoshka_dimensions=[8])
    BertModel(config).eval().save_pretrained(bare)
    modules = [Transformer(str(bare)), Pooling(32, "mean", **pooling), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))


def make_cross_encoder(folder: Path, labels: int = 1, **members: Any) -> None:
    """BERT that scores pairs."""
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    make_tokenizer(folder)
    config = _make_config(num_labels=labels, **members)
    BertForSequenceClassification(config).eval().save_pretrained(folder)


def make_roberta_cross_encoder(folder: Path, **members: Any) -> None:
    """XLM-RoBERTa that scores pairs, like BGE's rerankers: the pad id is 1, and no token types.

    Positions count from 2, and the tokenizer has no length limit.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        PreTrainedTokenizerFast,
        XLMRobertaConfig,
        XLMRobertaForSequenceClassification,
    )

    torch.manual_seed(0)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    config = XLMRobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS + 2,
        type_vocab_size=1,
        initializer_range=0.5,
        num_labels=1,
        **members,
    )
    XLMRobertaForSequenceClassification(config).eval().save_pretrained(folder)


def make_generative_reranker(folder: Path) -> None:
    """Llama that would score a pair by generating "yes" or "no"."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = make_tokenizer(folder, "yes", "no")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
    )
    LlamaForCausalLM(config).eval().save_pretrained(folder)
