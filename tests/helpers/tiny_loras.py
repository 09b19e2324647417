"""LoRA adapters with random weights, for the demo's image model."""

from pathlib import Path

_RANK = 2


def write_lora(
    folder: Path, model: Path, seed: int, *, text: bool = False, name: str | None = None
) -> str:
    """Write an adapter of the UNet's or text encoder's attention, strong enough to be visible."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    part, ending = ("text_encoder", "q_proj") if text else ("unet", "to_v")
    (weights,) = (model / part).glob("*.safetensors")
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    with safe_open(weights, "pt") as file:
        for key in file.keys():  # noqa: SIM118  # not a mapping
            if not key.endswith(f"{ending}.weight"):
                continue
            rows, columns = file.get_slice(key).get_shape()
            stem = f"{part}.{key.removesuffix('.weight')}"
            sides = {"A": (_RANK, columns), "B": (rows, _RANK)}
            for side, shape in sides.items():
                tensors[f"{stem}.lora_{side}.weight"] = torch.randn(shape, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / (name or "pytorch_lora_weights.safetensors"))
    return str(folder)
