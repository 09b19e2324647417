"""LoRA adapters of an image model: all are loaded with it, and switched between two batches."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from api.errors import InvalidRequestError, UnsupportedParameterError
from api.ports.images import Lora
from deployments.config.diffusion import LoraArgs
from deployments.engines.sources import SourceError, resolve_source

_USUAL_FILE = "pytorch_lora_weights.safetensors"


def check_loras(wanted: Sequence[Lora], known: Iterable[str]) -> tuple[Lora, ...]:
    """The adapters of a request, in the one order that images need to be drawn together.

    Raises:
        UnsupportedParameterError: the model has none at all.
        InvalidRequestError: it has others.
    """
    names = list(known)
    if wanted and not names:
        raise UnsupportedParameterError(
            "The parameter 'loras' is not supported by this model, which has none.", param="loras"
        )
    for number, lora in enumerate(wanted):
        if lora.name not in names:
            param = f"loras[{number}].name"
            raise InvalidRequestError(
                f"Invalid value for '{param}': it must be one of: {', '.join(names)}.", param=param
            )
    return tuple(sorted(wanted, key=lambda lora: lora.name))


class Loras:
    """The adapters of one pipeline."""

    def __init__(self, pipeline: Any, adapters: Mapping[str, LoraArgs]) -> None:
        """Load all of them, and switch them off.

        Raises:
            SourceError: one of them is not there, or does not fit the model.
        """
        self._pipeline = pipeline
        # A name of ours may hold what a name inside of a model must not, such as a dot.
        self._inner = {name: f"lora_{number}" for number, name in enumerate(adapters)}
        for name, adapter in adapters.items():
            _load(pipeline, f"loras.{name}", adapter, self._inner[name])
        self._active: tuple[Lora, ...] | None = None
        """None while nobody knows: switching broke off half-way."""
        self.switch_to(())

    def switch_to(self, wanted: tuple[Lora, ...]) -> None:
        """Draw with these from now on; without any, as if none had ever been loaded."""
        if not self._inner or wanted == self._active:
            return
        from diffusers.utils import set_adapter_layers

        self._active = None
        if wanted:
            names = [self._inner[lora.name] for lora in wanted]
            self._pipeline.set_adapters(names, [lora.scale for lora in wanted])
        # Not the pipeline's own `disable_lora`: it fails where a part of it has no adapter.
        for part in self._pipeline.get_list_adapters():
            set_adapter_layers(getattr(self._pipeline, part), enabled=bool(wanted))
        self._active = wanted


def _load(pipeline: Any, name: str, adapter: LoraArgs, inner: str) -> None:
    if not hasattr(pipeline, "load_lora_weights"):
        raise SourceError(name, adapter.source, "this kind of model takes no LoRA adapters")
    file = _find_file(name, adapter)
    # diffusers passes over what it finds no place for, so it is looked for afterwards. Copied into
    # the model, and not put in its place, the weights take its precision.
    pipeline.load_lora_weights(
        str(file.parent),
        weight_name=file.name,
        adapter_name=inner,
        local_files_only=True,
        low_cpu_mem_usage=False,
    )
    if not any(inner in adapters for adapters in pipeline.get_list_adapters().values()):
        raise SourceError(name, adapter.source, "nothing in it fits this model")


def _find_file(name: str, adapter: LoraArgs) -> Path:
    """The one file with the weights; never a pickle, which runs code when loaded."""
    folder = resolve_source(name, adapter.source)
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    file = adapter.file or (_USUAL_FILE if _USUAL_FILE in found else None)
    if file is None and len(found) == 1:
        file = found[0]
    if file is None:
        reason = "it has several .safetensors files; say which by `file`"
        raise SourceError(name, adapter.source, reason if found else "it has no .safetensors file")
    if Path(file).suffix != ".safetensors" or not (folder / file).is_file():
        raise SourceError(name, adapter.source, f"it has no .safetensors file '{file}'")
    return folder / file
