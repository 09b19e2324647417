"""The demo model on disk: StableDiffusionPipeline's layout, and defaults for generating.

The defaults are in `triptych.json`, because diffusers refuses unknown keys in `model_index.json`.
"""

import json
from pathlib import Path

from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from drawings import SIZE_PX
from transformers import CLIPTextModel, CLIPTokenizer

DEFAULTS = {
    "num_inference_steps": 20,
    "guidance_scale": 3.0,
    "width_px": SIZE_PX,
    "height_px": SIZE_PX,
}


def save_text(folder: Path, tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> None:
    """Write both in the pipeline's layout; the vocabulary also in the older two-file format."""
    tokenizer.save_pretrained(folder / "tokenizer")
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    encoder.save_pretrained(folder / "text_encoder")


def save_pipeline(
    out: Path,
    work: Path,
    *,
    encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
) -> None:
    """Write the pipeline, float16 on disk; the configs say float32, the dtype to load it in."""
    vae = AutoencoderTiny.from_pretrained(work / "decoder")
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=CLIPTextModel(encoder.config).half(),
        tokenizer=CLIPTokenizer.from_pretrained(work / "text" / "tokenizer"),
        unet=UNet2DConditionModel.from_config(unet.config).half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.unet.load_state_dict(unet.state_dict())
    pipeline.text_encoder.load_state_dict(encoder.state_dict())
    pipeline.save_pretrained(out)
    save_text_files(out, work)


def save_text_files(out: Path, work: Path) -> None:
    """Add what `save_pretrained` omits: vocabulary files, the dtype to load in, and the defaults.

    Remove the local path that it writes into the VAE's config.
    """
    for name in ("vocab.json", "merges.txt"):
        (out / "tokenizer" / name).write_text((work / "text" / "tokenizer" / name).read_text())
    for part, change in (("text_encoder", {"dtype": "float32"}), ("vae", {"_name_or_path": ""})):
        config_file = out / part / "config.json"
        config = json.loads(config_file.read_text()) | change
        config_file.write_text(json.dumps(config, indent=2) + "\n")
    (out / "triptych.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n")
