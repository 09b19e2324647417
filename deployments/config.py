"""What stands under `args:` in serve_config.yaml: what each model is, and how the ingress behaves.

How much of it runs (replicas, CPUs, GPUs) stands under `deployments:`, in Ray Serve's own words.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from api.limits import Limits
from api.policy import Policy
from api.registry import UsagePlacement
from api.schema.images import Quality

MODEL_ID = r"[\w.:/@+-]+"


class _Args(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AuthArgs(_Args):
    """Who may use the service."""

    required: bool = Field(True, description="False lets everyone in: only behind another gate")


class PromptLogArgs(_Args):
    """Prompts that may be kept."""

    folder: Annotated[str, Field(min_length=1)]
    retention_days: float = Field(30.0, gt=0, description="older files are deleted")


class ImageStoreArgs(_Args):
    """Images that are fetched by URL."""

    folder: Annotated[str, Field(min_length=1)]
    max_bytes: int = Field(1024**3, ge=1024, description="of all files; the oldest go first")
    expires_s: float = Field(3600.0, gt=0, description="how long a URL works")
    base_url: str | None = Field(
        None, description="what URLs begin with, without /v1; the request's own host without"
    )


class IngressArgs(_Args):
    """The HTTP face."""

    auth: AuthArgs = AuthArgs()
    limits: Limits = Limits()
    policy: Policy = Policy()
    prompt_log: PromptLogArgs | None = Field(
        None, description="where prompts go whose requests say log_prompt; none are kept without"
    )
    image_store: ImageStoreArgs | None = Field(
        None, description="where images go whose requests say response_format url; without, 400"
    )
    poll_interval_s: float = Field(
        2.0, gt=0, description="how often the set of models is looked up"
    )


class LedgerArgs(_Args):
    """Keys, limits and usage."""

    # URLs may hold passwords, and errors are logged.
    model_config = ConfigDict(hide_input_in_errors=True)

    database: str | None = Field(
        None,
        description="where keys and usage are kept: sqlite:///FILE or postgresql://…; without, "
        "TRIPTYCH_DATABASE_URL, else triptych.db in the home folder",
    )
    redis: str | None = Field(
        None, description="redis://…: limits are kept there, and not beside the ledger"
    )
    audit_log: str | None = Field(
        None, description="a file of JSON lines; logs/audit.jsonl in the home folder without"
    )
    poll_interval_s: float = Field(
        1.0, gt=0, description="how often it is looked whether keys have changed"
    )

    @field_validator("database")
    @classmethod
    def _check_database(cls, url: str | None) -> str | None:
        if url is not None:
            from deployments.store.database import Database, StoreError

            try:
                Database(url)
            except StoreError as error:
                raise ValueError(str(error)) from None
        return url

    @field_validator("redis")
    @classmethod
    def _check_redis(cls, url: str | None) -> str | None:
        if url is not None:
            from redis.asyncio.connection import parse_url

            try:
                parse_url(url)
            except ValueError:
                # Not in its own words: they may quote a part of a password.
                raise ValueError("a Redis URL begins with redis://, rediss:// or unix://") from None
        return url


class ModelArgs(_Args):
    """What every model has."""

    id: Annotated[str, Field(min_length=1, max_length=128, pattern=f"^{MODEL_ID}$")]
    """The name that clients use."""
    source: Annotated[str, Field(min_length=1)]
    """A local folder, a Hugging Face id (`org/name` or `org/name@revision`) or `demo:<name>`."""
    max_waiting: int = Field(
        1024, ge=0, description="requests that wait in a replica for their turn; more are refused"
    )


class AdapterArgs(_Args):
    """A LoRA adapter of an LLM."""

    id: Annotated[str, Field(min_length=1, max_length=128, pattern=f"^{MODEL_ID}$")]
    source: Annotated[str, Field(min_length=1)]


class LlmArgs(ModelArgs):
    """A model that writes text, run by vLLM."""

    engine: dict[str, Any] = Field(
        default_factory=dict, description="options of vLLM's AsyncEngineArgs, by their own names"
    )
    tool_call_parser: str | None = Field(
        None, description="vLLM's parser of the model's tool calls, such as hermes or llama3_json"
    )
    chat_template: str | None = Field(
        None, description="a file with a Jinja template that replaces the model's own"
    )
    template_options: frozenset[str] = Field(
        frozenset(),
        description="switches of the template that requests may set by chat_template_kwargs",
    )
    default_max_tokens: int | None = Field(
        None, ge=1, description="max_tokens of a request that does not say"
    )
    stream_usage: UsagePlacement = Field(
        "own_chunk", description="own_chunk as at OpenAI, or last_chunk: on the last content"
    )
    adapters: tuple[AdapterArgs, ...] = Field((), description="LoRA adapters: id and source")
    adapters_dir: str | None = Field(
        None, description="a folder whose subfolders are LoRA adapters too; looked at as it changes"
    )
    stall_timeout_s: float = Field(
        120.0, gt=0, description="work outstanding and no token for so long: restart the replica"
    )


Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""`auto` is bfloat16 where the hardware computes in it, else float32."""


class EncoderOptions(_Args):
    """How an encoder runs."""

    dtype: Dtype = "auto"
    device: str = Field("auto", description="`cpu`, `cuda`, …; auto takes a GPU if there is one")
    max_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="most tokens of one pass, padding included; without, 1024 on a CPU, else 16384",
    )
    max_tokens: int | None = Field(
        None, ge=1, description="most tokens of one text, where that is to be less than the model's"
    )
    pack_weights: bool = Field(
        True,
        description="on a CPU, weights are laid out for its matrix products once, not at each one; "
        "switch it off if a model cannot be loaded for it",
    )
    task: Literal["auto", "embed", "rerank"] = Field(
        "auto", description="rerank is a cross-encoder; auto reads it from the model's config.json"
    )
    prompt_name: str | None = Field(
        None, description="which of the model's own prompts goes before each text"
    )
    prompts: dict[str, str] = Field(
        default_factory=dict,
        description="what goes before texts of each input_type, such as `query` and `passage`",
    )
    dimensions: Literal["any"] | tuple[int, ...] | None = Field(
        None, description="what requests may shorten vectors to; without, what the model says"
    )


_OPTIONS_BESIDE_VLLM = frozenset({"max_tokens", "prompt_name", "prompts", "dimensions"})
"""What `VllmEncoderEngine` takes of them."""


class EmbeddingArgs(ModelArgs):
    """A model that turns text into vectors, or pairs of texts into scores."""

    runner: Literal["sentence-transformers", "vllm"] = Field(
        "sentence-transformers", description="what runs it; vllm is for decoders"
    )
    engine: EncoderOptions = EncoderOptions()
    vllm: dict[str, Any] = Field(
        default_factory=dict,
        description="with runner vllm: options of its AsyncEngineArgs, by their own names",
    )

    @model_validator(mode="after")
    def _check_runner(self) -> "EmbeddingArgs":
        if self.runner != "vllm":
            if self.vllm:
                raise ValueError("vllm takes effect with 'runner: vllm' only")
            return self
        if idle := sorted(self.engine.model_fields_set - _OPTIONS_BESIDE_VLLM):
            raise ValueError(
                f"with 'runner: vllm' these of engine have no effect: {', '.join(idle)}; its own "
                "options stand under vllm"
            )
        return self


class LoraArgs(_Args):
    """A LoRA adapter of an image model."""

    source: Annotated[str, Field(min_length=1)]
    file: str | None = Field(
        None, description="which of its .safetensors files, where there are several"
    )


_QUALITIES = tuple(name for name in get_args(Quality) if name != "auto")
LoraName = Annotated[str, Field(min_length=1, max_length=128, pattern=f"^{MODEL_ID}$")]


class DiffusionOptions(_Args):
    """How a diffusion pipeline runs, and what a request gets that does not say."""

    dtype: Dtype = "auto"
    device: str = Field("auto", description="`cpu`, `cuda`, …; auto takes a GPU if there is one")
    num_inference_steps: int = Field(30, ge=1, le=1000, description="default steps of a request")
    guidance_scale: float = Field(5.0, ge=0, description="default guidance of a request")
    true_cfg_scale: float = Field(
        4.0, ge=1, description="default weight of negative prompts, for Flux, Qwen-Image and kin"
    )
    strength: float = Field(0.8, gt=0, le=1, description="default strength of an edit")
    qualities: dict[str, Annotated[int, Field(ge=1, le=1000)]] = Field(
        default_factory=dict, description="steps by the request's quality, such as {low: 12}"
    )
    schedulers: tuple[str, ...] = Field(
        (), description="names of diffusers' schedulers that requests may choose"
    )
    loras: dict[LoraName, LoraArgs] = Field(
        default_factory=dict, description="LoRA adapters that requests may name"
    )
    size_multiple_px: int = Field(8, ge=1, description="width and height must be multiples of it")
    min_size_px: int = Field(8, ge=1, description="smallest width and height")
    max_size_px: int = Field(2048, ge=8, description="largest width and height")
    max_pixels: int = Field(2048 * 2048, ge=64, description="largest width × height")
    max_input_pixels: int = Field(
        20_000_000, ge=64, description="largest width × height of a picture to be edited"
    )
    max_batch_images: int = Field(8, ge=1, description="most images that are drawn together")
    max_batch_pixels: int = Field(
        8 * 1024 * 1024, ge=64, description="most pixels of all images that are drawn together"
    )
    batch_window_ms: float = Field(
        10.0, ge=0, description="how long images wait for those that the last batch was with"
    )
    provenance: bool = Field(
        True, description="PNG files say which model, seed, steps and guidance made them"
    )
    attention_slicing: bool = Field(False, description="less memory, slower")
    vae_tiling: bool = Field(False, description="decodes large images in tiles: less memory")
    vae_slicing: bool = Field(False, description="decodes images one by one: less memory")
    compile: bool = Field(False, description="torch.compile: slow first images, then faster")
    pack_weights: bool = Field(
        True,
        description="on a CPU, weights are laid out for it once, not at each step; loras, compile "
        "and offload leave them as they are",
    )
    offload: Literal["none", "model", "sequential"] = Field(
        "none", description="what is not in use waits in main memory; needs a GPU"
    )
    from_pretrained: dict[str, Any] = Field(
        default_factory=dict, description="further options of diffusers' from_pretrained"
    )

    def find_steps(self, asked: int | None, quality: str | None) -> int:
        """The steps of an image: as many as asked for, or as its quality says, or the default."""
        return asked or self.qualities.get(quality or "", self.num_inference_steps)

    @field_validator("qualities")
    @classmethod
    def _check_qualities(cls, qualities: dict[str, int]) -> dict[str, int]:
        for name in qualities:
            if name not in _QUALITIES:
                raise ValueError(f"no request can say '{name}', only {', '.join(_QUALITIES)}")
        return qualities

    @model_validator(mode="after")
    def _check_sizes(self) -> "DiffusionOptions":
        if self.min_size_px > self.max_size_px:
            raise ValueError("min_size_px is larger than max_size_px, so that no image has a size")
        return self

    @model_validator(mode="after")
    def _check_compile(self) -> "DiffusionOptions":
        if self.compile and self.loras:
            # Each set of adapters, and each scale, would be compiled anew while everybody waits.
            raise ValueError("compile does not go together with loras")
        return self


class DiffusionArgs(ModelArgs):
    """A model that draws, run by diffusers."""

    engine: DiffusionOptions = DiffusionOptions()
    stall_timeout_s: float = Field(
        600.0, gt=0, description="an image is drawn, and no step for so long: restart the replica"
    )


def application_name(model_id: str) -> str:
    """The Serve application of a model; a name of Serve's takes no slash."""
    return model_id.replace("/", "--").replace(".", "_")


def find_home() -> Path:
    """Where generated things live: `TRIPTYCH_HOME`, else `.triptych` in the checkout."""
    if home := os.environ.get("TRIPTYCH_HOME"):
        return Path(home).expanduser()
    checkout = Path(__file__).resolve().parent.parent
    is_checkout = (checkout / "pyproject.toml").is_file()
    return (checkout if is_checkout else Path.home()) / ".triptych"
