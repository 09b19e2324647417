"""Trains the demo's text-to-image model from scratch, on drawings made during training.

    .venv/bin/python scripts/demo/train_diffusion.py --out scripts/demo/shapes

Seeded; about an hour and a half on one core. Five stages, each saved in the work folder when done,
so that an interrupted run continues where it stopped:
1. text     a CLIP text encoder learns to predict a caption's attributes from its end-of-text token;
2. vae      an autoencoder for the drawings, three of whose latent channels are the local mean RGB;
3. decoder  the autoencoder's second half learns to draw sharp edges from inexact latents;
4. latents  a fixed set of drawings is encoded once;
5. unet     the denoiser, and the text encoder at a lower rate, learn v-prediction on the latents.
Without stage 1 and the mean-RGB channels of stage 2, colour takes ten times as long to learn.

Weights are stored in float32 and computed in bfloat16, which is twice as fast on CPUs that have it.
One thread is the default because threads wait for one another at every operator: on a busy machine
two threads were several times slower than one.
"""

import argparse
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from drawings import (
    BACKGROUNDS,
    COLOURS,
    LAYOUTS,
    SHAPES,
    SIZE_PX,
    SIZES,
    Scene,
    describe,
    draw,
    sample_scene,
)
from mixed_precision import Mixed
from model_folder import save_pipeline, save_text
from progress import Progress
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[2]
SEED = 20
TOKENS = 32
HIDDEN = 128
LATENT_CHANNELS = 8
DROPPED_CAPTIONS = 0.1  # replaced by the empty caption, for classifier-free guidance

TEXT_STEPS, TEXT_BATCH = 700, 128
VAE_STEPS, VAE_BATCH = 2200, 16
DECODER_STEPS, DECODER_BATCH = 2000, 16
DRAWINGS = 24_000
UNET_STEPS, UNET_BATCH = 7000, 32
SAVE_EVERY = 1000

# How many values each of a caption's attributes has, in the order of `to_labels`.
CLASSES = [len(COLOURS), len(SHAPES), len(COLOURS) + 1, len(SHAPES) + 1]
CLASSES += [len(LAYOUTS), len(SIZES), len(BACKGROUNDS)]


def train_text(work: Path) -> None:
    """Stage 1: a tokenizer for the captions, and an encoder for them."""
    rng = Random(SEED)
    scenes = [sample_scene(rng) for _ in range(TEXT_STEPS * TEXT_BATCH // 2)]
    captions = [describe(scene, rng) for scene in scenes]
    tokenizer = CLIPTokenizer().train_new_from_iterator(
        captions, vocab_size=700, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.model_max_length = TOKENS
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=4 * HIDDEN,
            projection_dim=HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    labels = torch.tensor([to_labels(scene) for scene in scenes])  # (N, 7)
    heads = nn.Linear(HIDDEN, sum(CLASSES))
    ids = tokenize(tokenizer, captions)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=1e-3)
    progress = Progress("text", TEXT_STEPS)
    for step in range(1, TEXT_STEPS + 1):
        rows = torch.randint(len(scenes), (TEXT_BATCH,))
        logits = heads(encoder(ids[rows]).pooler_output).split(CLASSES, dim=1)
        loss = sum(F.cross_entropy(part, labels[rows, i]) for i, part in enumerate(logits))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress.show(step, loss.item())
    save_text(work / "text", tokenizer, encoder)


def to_labels(scene: Scene) -> list[int]:
    """List a caption's attributes: two things (or one), layout, size, background."""
    first, second = scene.things[0], scene.things[-1] if len(scene.things) == 2 else None
    return [
        COLOURS.index(first.colour),
        SHAPES.index(first.shape),
        COLOURS.index(second.colour) if second else len(COLOURS),
        SHAPES.index(second.shape) if second else len(SHAPES),
        LAYOUTS.index(scene.layout),
        list(SIZES).index(scene.size),
        BACKGROUNDS.index(scene.background),
    ]


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids as the pipeline makes them: (N, T) int64, padded to the full length."""
    batch = tokenizer(captions, padding="max_length", truncation=True, max_length=TOKENS)
    return torch.tensor(batch["input_ids"])


def train_vae(work: Path) -> None:
    """Stage 2: the autoencoder."""
    vae = AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        num_encoder_blocks=(1, 2, 2, 2),
        num_decoder_blocks=(2, 2, 2, 1),
        latent_channels=LATENT_CHANNELS,
    )
    vae.to(memory_format=torch.channels_last)
    mixed = Mixed([(vae, 2e-3)], VAE_STEPS, ema=0.995)
    rng, progress = Random(SEED + 1), Progress("vae", VAE_STEPS)
    for step in range(1, VAE_STEPS + 1):
        images = to_tensor([sample_scene(rng) for _ in range(VAE_BATCH)], rng)
        latents = vae.encode(images.bfloat16()).latents
        drawn = vae.decode(latents).sample.float()
        colours = F.avg_pool2d(images, 8)
        loss = F.l1_loss(drawn, images) + 2 * F.mse_loss(drawn, images)
        loss = loss + edge_loss(drawn, images) + F.mse_loss(latents[:, :3].float(), colours)
        loss = loss + 0.01 * latents[:, 3:].float().square().mean()
        mixed.step(loss)
        progress.show(step, loss.item())
    mixed.use_average()
    test = to_tensor([sample_scene(rng) for _ in range(200)], rng)
    with torch.no_grad():
        latents = vae.encode(test.bfloat16()).latents
        error = F.mse_loss(vae.decode(latents).sample.float(), test).item()
    vae.register_to_config(scaling_factor=round(1 / latents.float().std().item(), 4))
    print(f"vae      {10 * np.log10(4 / error):.1f} dB, scale {vae.config.scaling_factor}")
    vae.float().save_pretrained(work / "vae")


def train_decoder(work: Path) -> None:
    """Stage 3: the decoder alone; the encoder, and so the meaning of latents, does not change."""
    vae = AutoencoderTiny.from_pretrained(work / "vae")
    vae.encoder.bfloat16()
    mixed = Mixed(
        [(vae.decoder.to(memory_format=torch.channels_last), 1.5e-3)], DECODER_STEPS, 0.99
    )
    rng, progress = Random(SEED + 3), Progress("decoder", DECODER_STEPS)
    for step in range(1, DECODER_STEPS + 1):
        images = to_tensor([sample_scene(rng) for _ in range(DECODER_BATCH)], rng)
        with torch.no_grad():
            latents = vae.encode(images.bfloat16()).latents
        noise_scale = 0.06 * torch.rand(DECODER_BATCH, 1, 1, 1)
        latents = latents + noise_scale * torch.randn_like(latents)
        drawn = vae.decode(latents.bfloat16()).sample.float()
        loss = F.l1_loss(drawn, images) + F.mse_loss(drawn, images) + edge_loss(drawn, images)
        mixed.step(loss)
        progress.show(step, loss.item())
    mixed.use_average()
    vae.float().save_pretrained(work / "decoder")


def edge_loss(drawn: Tensor, truth: Tensor) -> Tensor:
    """Mean difference of the horizontal and vertical gradients."""
    return sum(F.l1_loss(drawn.diff(dim=axis), truth.diff(dim=axis)) for axis in (2, 3))


def to_tensor(scenes: list[Scene], rng: Random) -> Tensor:
    """Draw scenes: (B, 3, H, W) float32 in [-1, 1], channels last in memory."""
    images = np.stack([np.asarray(draw(scene, rng)) for scene in scenes])  # (B, H, W, 3) uint8
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def encode_drawings(work: Path) -> None:
    """Stage 4: a fixed set of drawings as scaled latents, with two captions each."""
    vae = AutoencoderTiny.from_pretrained(work / "vae").bfloat16()
    tokenizer = CLIPTokenizer.from_pretrained(work / "text" / "tokenizer")
    rng, progress = Random(SEED + 2), Progress("latents", DRAWINGS)
    latents, captions = [], []
    for done in range(0, DRAWINGS, 100):
        scenes = [sample_scene(rng) for _ in range(100)]
        captions += [describe(scene, rng) for scene in scenes for _ in range(2)]
        with torch.no_grad():
            encoded = vae.encode(to_tensor(scenes, rng).bfloat16()).latents
        latents.append(encoded * vae.config.scaling_factor)
        progress.show(done + 100, 0.0)
    ids = tokenize(tokenizer, captions).view(DRAWINGS, 2, TOKENS)
    torch.save({"latents": torch.cat(latents), "ids": ids}, work / "latents")


def train_unet(work: Path, out: Path, steps: int) -> None:
    """Stage 5: the denoiser; writes the pipeline to `out` every SAVE_EVERY steps and at the end."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "text" / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(work / "text" / "text_encoder")
    data = torch.load(work / "latents")
    unet = build_unet()
    scheduler = build_scheduler()
    mixed = Mixed([(unet, 1.2e-3), (encoder, 3e-4)], steps, ema=0.999)
    empty = tokenize(tokenizer, [""])[0]
    progress = Progress("unet", steps)
    for step in range(1, steps + 1):
        rows = torch.randint(len(data["latents"]), (UNET_BATCH,))
        ids = data["ids"][rows, torch.randint(2, (UNET_BATCH,))]
        ids[torch.rand(UNET_BATCH) < DROPPED_CAPTIONS] = empty
        clean = data["latents"][rows].to(memory_format=torch.channels_last)
        noise = torch.randn_like(clean)
        # Captions matter most at high noise levels, so these are sampled more often.
        times = (1000 * torch.rand(UNET_BATCH) ** 0.7).long().clamp(max=999)
        noisy = scheduler.add_noise(clean, noise, times)
        target = scheduler.get_velocity(clean, noise, times)
        predicted = unet(noisy, times, encoder(ids).last_hidden_state).sample
        loss = F.mse_loss(predicted.float(), target.float())
        mixed.step(loss)
        progress.show(step, loss.item())
        if step % SAVE_EVERY == 0 or step == steps:
            mixed.use_average()
            save_pipeline(out, work, encoder=encoder, unet=unet, scheduler=scheduler)
            mixed.use_latest()


def build_unet() -> UNet2DConditionModel:
    """The denoiser: 4 M parameters, cross attention in its lower half."""
    unet = UNet2DConditionModel(
        sample_size=SIZE_PX // 8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=HIDDEN,
        attention_head_dim=4,  # really the number of heads (diffusers' misnomer)
        norm_num_groups=8,
    )
    unet.set_attn_processor(AttnProcessor())  # its backward pass is faster than SDPA's on a CPU
    return unet.to(memory_format=torch.channels_last)


def build_scheduler() -> DDIMScheduler:
    """v-prediction with zero terminal SNR, so that flat backgrounds can have any brightness."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def stages(work: Path, out: Path, steps: int) -> Iterator[tuple[str, Path, Callable[[], None]]]:
    """Yield each stage's name, the path of its result, and how to run it."""
    yield "text", work / "text", lambda: train_text(work)
    yield "vae", work / "vae", lambda: train_vae(work)
    yield "decoder", work / "decoder", lambda: train_decoder(work)
    yield "latents", work / "latents", lambda: encode_drawings(work)
    yield "unet", work / "unet.done", lambda: train_unet(work, out, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--work", type=Path, default=ROOT / ".triptych" / "train")
    parser.add_argument("--steps", type=int, default=UNET_STEPS, help="of the last stage")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # diffusers' advice on dtypes
    for name, product, run in stages(options.work, options.out, options.steps):
        if product.exists():
            print(f"{name:8} already done")
            continue
        torch.manual_seed(SEED)
        run()
    (options.work / "unet.done").touch()


if __name__ == "__main__":
    main()
