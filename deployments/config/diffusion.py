"""The arguments of an image model (`deployments.app:diffusion`)."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from api.schema.images import Quality
from deployments.config.base import MODEL_ID, Args, Dtype, ModelArgs, refuse_trust_options


class LoraArgs(Args):
    """A LoRA adapter of an image model."""

    source: Annotated[str, Field(min_length=1)] = Field(
        description="local folder or Hugging Face id"
    )
    file: str | None = Field(None, description="which of its .safetensors files, if it has several")


_QUALITIES = tuple(name for name in get_args(Quality) if name != "auto")


LoraName = Annotated[str, Field(min_length=1, max_length=128, pattern=f"^{MODEL_ID}$")]


class DiffusionOptions(Args):
    """How a diffusion pipeline runs, and the defaults of requests."""

    dtype: Dtype = Field("auto", description="`auto`: bfloat16 if the hardware supports it")
    device: str = Field("auto", description="`cpu`, `cuda`, …; `auto` takes a GPU if there is one")
    num_inference_steps: int = Field(
        30, ge=1, le=1000, description="denoising steps of a request without any"
    )
    guidance_scale: float = Field(5.0, ge=0, description="guidance of a request without any")
    true_cfg_scale: float = Field(
        4.0,
        ge=1,
        description="weight of negative prompts in requests without one, for FLUX, Qwen-Image "
        "and similar",
    )
    strength: float = Field(0.8, gt=0, le=1, description="strength of an edit without one")
    qualities: dict[str, Annotated[int, Field(ge=1, le=1000)]] = Field(
        default_factory=dict,
        description="denoising steps by the request's `quality`, such as `{low: 12}`",
    )
    schedulers: tuple[str, ...] = Field(
        (), description="class names of the diffusers schedulers that requests may choose"
    )
    loras: dict[LoraName, LoraArgs] = Field(
        default_factory=dict, description="LoRA adapters that requests may name; not with `compile`"
    )
    size_multiple_px: int = Field(8, ge=1, description="width and height must be multiples of this")
    min_size_px: int = Field(8, ge=1, description="smallest width and height")
    max_size_px: int = Field(2048, ge=8, description="largest width and height")
    max_pixels: int = Field(2048 * 2048, ge=64, description="largest width × height")
    max_pixel_steps: int | None = Field(
        None,
        ge=64,
        description="most width × height × denoising steps of all images of a request; by default "
        "that of 20 images of the model's own size with its own number of steps",
    )
    max_input_pixels: int = Field(
        20_000_000, ge=64, description="largest width × height of an image to edit"
    )
    max_batch_images: int = Field(8, ge=1, description="most images in one batch")
    max_batch_pixels: int = Field(
        8 * 1024 * 1024, ge=64, description="most pixels of all images in one batch"
    )
    batch_window_ms: float = Field(
        10.0,
        ge=0,
        description="how long a batch waits for clients of the previous batch to send their "
        "next request",
    )
    provenance: bool = Field(True, description="store model, seed, steps and guidance in PNG files")
    attention_slicing: bool = Field(False, description="less memory, slower")
    vae_tiling: bool = Field(False, description="decode large images in tiles: less memory")
    vae_slicing: bool = Field(False, description="decode images one by one: less memory")
    compile: bool = Field(
        False, description="use `torch.compile`: the first images of each size take minutes"
    )
    pack_weights: bool = Field(
        True,
        description="on a CPU, prepack weights for oneDNN when the model loads; without effect "
        "with `loras`, `compile` or `offload`",
    )
    offload: Literal["none", "model", "sequential"] = Field(
        "none", description="keep idle parts of the pipeline in main memory; needs a GPU"
    )
    from_pretrained: dict[str, Any] = Field(
        default_factory=dict, description="further options of diffusers' `from_pretrained`"
    )

    def find_steps(self, requested: int | None, quality: str | None) -> int:
        """Return the denoising steps of an image: as requested, by its quality, or the default."""
        return requested or self.qualities.get(quality or "", self.num_inference_steps)

    @field_validator("qualities")
    @classmethod
    def _check_qualities(cls, qualities: dict[str, int]) -> dict[str, int]:
        for name in qualities:
            if name not in _QUALITIES:
                raise ValueError(f"no request can say '{name}', only {', '.join(_QUALITIES)}")
        return qualities

    @field_validator("from_pretrained")
    @classmethod
    def _check_from_pretrained(cls, options: dict[str, Any]) -> dict[str, Any]:
        refuse_trust_options(options, ["trust_remote_code", "use_safetensors"])
        return options

    @model_validator(mode="after")
    def _check_sizes(self) -> "DiffusionOptions":
        if self.min_size_px > self.max_size_px:
            raise ValueError("min_size_px is larger than max_size_px, so that no image has a size")
        return self

    @model_validator(mode="after")
    def _check_compile(self) -> "DiffusionOptions":
        if self.compile and self.loras:
            # Every new set of adapters or scale would recompile the model and block all requests.
            raise ValueError("compile does not go together with loras")
        return self


class DiffusionArgs(ModelArgs):
    """An image model, run by diffusers."""

    engine: DiffusionOptions = Field(
        DiffusionOptions(), description="how the pipeline runs, and defaults of requests"
    )
    stall_timeout_s: float = Field(
        600.0,
        gt=0,
        description="restart the replica after this long with an image under way and no step",
    )

    @model_validator(mode="after")
    def _check_custom_pipeline(self) -> "DiffusionArgs":
        if "custom_pipeline" in self.engine.from_pretrained and "code" not in self.trust:
            raise ValueError(
                "engine.from_pretrained.custom_pipeline loads Python code; leave it out, or set "
                "'trust: [code]' if you trust its author"
            )
        return self
