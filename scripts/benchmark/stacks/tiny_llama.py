"""Makes the model of the serving rig: two random layers behind a real tokenizer.

It costs almost nothing to run, so serving limits the rate. Its head is not tied to the embeddings:
rows of tokens that are no clean text by themselves are 0, and a logit of 0 is never the greatest of
tens of thousands of random ones. All other tokens are equally likely.

Usage: python -m scripts.benchmark.stacks.tiny_llama TOKENIZER_FOLDER NEW_FOLDER
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SEED = 20


def main() -> None:
    source, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        shutil.copy(source / name, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = json.loads((source / "config.json").read_text())
    build_model(tokenizer, said["vocab_size"]).save_pretrained(folder)


def build_model(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=8192,
        initializer_range=0.3,  # layers count as much as the last token: no short cycles
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )
    model = LlamaForCausalLM(config)
    unclean = [token for token in range(vocabulary) if not is_clean(tokenizer, token)]
    with torch.no_grad():
        model.lm_head.weight[unclean] = 0  # (V, H) float32
    return model.to(torch.bfloat16)


def is_clean(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    """Return whether a token is plain text: not special, no partial character, not only blanks."""
    text = tokenizer.decode([token])
    is_special = token in tokenizer.all_special_ids or token >= len(tokenizer)
    return not is_special and text.isprintable() and bool(text.strip()) and "\ufffd" not in text


if __name__ == "__main__":
    main()
