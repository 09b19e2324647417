"""Pipelines with random weights, of the families that use flow matching.

Their tokenizers are built here, or are the demo model's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deployments.engines.diffusion.pipeline_loading import find_denoiser
from deployments.engines.diffusion.pipelines import Pipelines

SHAPES = Path(__file__).resolve().parents[2] / "scripts" / "demo" / "shapes"
"""The demo's image model."""
CLIP_TOKENS = 77
T5_TOKENS = 96
SCALE = 2
"""Pixels per latent, along each side."""
VAE_TILE_PX = 32


@contextmanager
def counted_rows(pipelines: Pipelines) -> Iterator[list[int]]:
    """Collect how many rows the denoiser computes in each pass that begins within the block."""
    rows: list[int] = []

    def record(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        latents = args[0] if args else kwargs["hidden_states"]
        rows.append(len(latents))

    denoiser = find_denoiser(pipelines.base)
    hook = denoiser.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield rows
    finally:
        hook.remove()


def write_flux(folder: Path, *, is_guided: bool = True) -> str:
    """Write a Flux; its transformer takes guidance as an input unless `is_guided` is false."""
    from diffusers import FluxPipeline, FluxTransformer2DModel

    _seed()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=is_guided,
    )
    pipeline = FluxPipeline(
        scheduler=_scheduler(),
        vae=_vae(),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=_t5_tokenizer(),
        transformer=transformer,
    )
    return _save(pipeline, folder)


def write_sd3(folder: Path) -> str:
    """Write a Stable Diffusion 3 with all three text encoders."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    _seed()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
    )
    pipeline = StableDiffusion3Pipeline(
        scheduler=_scheduler(),
        vae=_vae(),
        text_encoder=_clip(CLIPTextModelWithProjection),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(CLIPTextModelWithProjection),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=_t5(d_model=64),
        tokenizer_3=_t5_tokenizer(),
        transformer=transformer,
    )
    return _save(pipeline, folder)


def write_qwen(folder: Path) -> str:
    """Write a Qwen-Image: a video VAE, and a tokenizer that adds no special tokens."""
    import diffusers
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    _seed()
    tokenizer = _qwen_tokenizer()
    sizes = {"hidden_size": 16, "vocab_size": len(tokenizer)}
    text = {
        **sizes,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_theta": 1e6,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
    }
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **sizes)
    pipeline = diffusers.QwenImagePipeline(
        scheduler=_scheduler(),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=24,
            z_dim=4,
            dim_mult=[1, 2, 4],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=tokenizer,
        transformer=diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=3,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
    )
    return _save(pipeline, folder)


def write_z_image(folder: Path) -> str:
    """Write a Z-Image: no configured size, and a transformer of lists of images and prompts."""
    import diffusers
    from transformers import Qwen3Config, Qwen3Model

    _seed()
    tokenizer = _qwen_tokenizer()
    tokenizer.chat_template = "{% for each in messages %}{{ each.content }}{% endfor %}a"
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    pipeline = diffusers.ZImagePipeline(
        scheduler=_scheduler(),
        vae=_vae(),
        text_encoder=Qwen3Model(config).eval(),
        tokenizer=tokenizer,
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[1024, 64, 64],
        ),
    )
    return _save(pipeline, folder)


def _qwen_tokenizer() -> Any:
    """A tokenizer of bytes."""
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    characters = [*bytes_to_unicode().values(), "<|endoftext|>"]
    vocab = {character: number for number, character in enumerate(characters)}
    return Qwen2Tokenizer(vocab=vocab, merges=[])


def _seed() -> None:
    import torch

    torch.manual_seed(0)


def _save(pipeline: Any, folder: Path) -> str:
    pipeline.save_pretrained(folder)
    return str(folder)


def _scheduler() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler()


def _vae() -> Any:
    from diffusers import AutoencoderKL

    blocks = 2
    return AutoencoderKL(
        sample_size=VAE_TILE_PX,
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def _clip(model: Any = None) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(_clip_tokenizer()),
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=CLIP_TOKENS,
        projection_dim=32,
        bos_token_id=0,
        eos_token_id=2,
    )
    return (model or CLIPTextModel)(config).eval()


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(SHAPES / "tokenizer", model_max_length=CLIP_TOKENS)


def _t5(d_model: int = 32) -> Any:
    from transformers import T5Config, T5EncoderModel

    size = len(_t5_tokenizer())
    config = T5Config(vocab_size=size, d_model=d_model, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    return T5EncoderModel(config).eval()


def _t5_tokenizer() -> Any:
    """A tokenizer of letters."""
    from transformers import T5Tokenizer

    letters = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=[*special, *letters], extra_ids=0, model_max_length=T5_TOKENS)
