"""How long a text an encoder takes."""

from typing import Any


def find_max_tokens(model: Any, wanted: int | None) -> int:
    """The most tokens of one text that a model of sentence-transformers takes.

    Args:
        model: with its modules in PyTorch.
        wanted: fewer than it could, by configuration.
    """
    limits = [int(model.max_seq_length or model.tokenizer.model_max_length), *_find_places(model)]
    return min([*limits, wanted] if wanted else limits)


def _find_places(model: Any) -> list[int]:
    """How many positions there are for tokens, where padding has one of its own.

    RoBERTa and its kin count from the one after it, so the first rows of the table are nobody's;
    neither the tokenizer nor sentence-transformers 6.2 leaves them out, and a text that needs them
    breaks its whole batch.
    Source: transformers 5.19 modeling_xlm_roberta.py, `create_position_ids_from_input_ids`.
    """
    return [
        int(module.num_embeddings) - int(module.padding_idx) - 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
