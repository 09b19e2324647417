"""Models and adapters of random weights, made on the spot; their output is deterministic."""

import json
from pathlib import Path
from typing import Any

from deployments.home import find_home

BASE = find_home() / "models" / "smollm2"

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_DECODER: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "initializer_range": 0.2,
}


def make_adapter(folder: Path, seed: int) -> None:
    """LoRA adapter of the demo LLM, strong enough to change its output."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((BASE / "config.json").read_text())
    hidden, rank = config["hidden_size"], 8
    outputs = {"q_proj": hidden, "v_proj": config["num_key_value_heads"] * config["head_dim"]}
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, size in outputs.items():
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            for part, shape in (("lora_A", (rank, hidden)), ("lora_B", (size, rank))):
                tensors[f"{stem}.{part}.weight"] = torch.randn(*shape, generator=generator) * 0.3
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(outputs),
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def make_vision_model(folder: Path) -> None:
    """Vision-language model of the Idefics3 architecture that may reason."""
    import torch
    from transformers import (
        AutoTokenizer,
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3Processor,
    )
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    tokenizer: Any = AutoTokenizer.from_pretrained(BASE)
    squares = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    special = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    special += [*squares, "<think>", "</think>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    layers = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config = Idefics3Config(
        vision_config={**layers, "num_attention_heads": 2, "image_size": 64, "patch_size": 16},
        text_config={
            **layers,
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 2048,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    model = Idefics3ForConditionalGeneration(config).to(torch.bfloat16)
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.2)
    model.save_pretrained(folder)
    side = {"longest_edge": 64}
    images = Idefics3ImageProcessorPil(do_image_splitting=False, size=side, max_image_size=side)
    Idefics3Processor(
        image_processor=images, tokenizer=tokenizer, image_seq_len=4, chat_template=_TEMPLATE
    ).save_pretrained(folder)


def make_decoder_encoder(folder: Path) -> None:
    """Decoder of the Qwen3 architecture, as Qwen3-Embedding, with the demo LLM's tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer: Any = AutoTokenizer.from_pretrained(BASE)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        **_DECODER,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_llm(folder: Path) -> None:
    """Llama with two heads of attention, which two workers can share, in float32."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer: Any = AutoTokenizer.from_pretrained(BASE)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        **_DECODER,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
