"""LoRA adapters of an image model: all are loaded at start, and switched between two batches."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from api.errors import InvalidRequestError, UnsupportedParameterError
from api.ports.images import Lora
from deployments.config.diffusion import LoraArgs
from deployments.engines.sources import SourceError, resolve_source

_USUAL_FILE = "pytorch_lora_weights.safetensors"


def check_loras(requested: Sequence[Lora], known: Iterable[str]) -> tuple[Lora, ...]:
    """Return a request's adapters sorted by name, so that equal sets can share a batch.

    Raises:
        UnsupportedParameterError: the model has no adapters.
        InvalidRequestError: the model does not have one of these.
    """
    names = list(known)
    if requested and not names:
        raise UnsupportedParameterError(
            "The parameter 'loras' is not supported by this model, which has none.", param="loras"
        )
    for number, lora in enumerate(requested):
        if lora.name not in names:
            raise InvalidRequestError.value(
                f"loras[{number}].name", f"it must be one of: {', '.join(names)}"
            )
    return tuple(sorted(requested, key=lambda lora: lora.name))


class Loras:
    """The adapters of one pipeline."""

    def __init__(
        self, pipeline: Any, adapters: Mapping[str, LoraArgs], trust: Collection[str] = ()
    ) -> None:
        """Load all adapters, and switch them off.

        Raises:
            SourceError: an adapter does not exist or does not fit the model.
        """
        self._pipeline = pipeline
        # Configured names may contain what torch forbids in names of modules, such as dots.
        self._module_names = {name: f"lora_{number}" for number, name in enumerate(adapters)}
        for name, adapter in adapters.items():
            file = _find_file(f"loras.{name}", adapter, trust)
            _load(pipeline, f"loras.{name}", adapter, file, self._module_names[name])
        self._active: tuple[Lora, ...] | None = None
        """None if the state is unknown, because switching failed half-way."""
        self.switch_to(())

    def switch_to(self, loras: tuple[Lora, ...]) -> None:
        """Activate exactly these adapters; with none, the model computes as without LoRA."""
        if not self._module_names or loras == self._active:
            return
        from diffusers.utils import set_adapter_layers

        self._active = None
        if loras:
            names = [self._module_names[lora.name] for lora in loras]
            self._pipeline.set_adapters(names, [lora.scale for lora in loras])
        # Not the pipeline's `disable_lora`, which fails where one of its parts has no adapter.
        for part in self._pipeline.get_list_adapters():
            set_adapter_layers(getattr(self._pipeline, part), enabled=bool(loras))
        self._active = loras


def _load(pipeline: Any, name: str, adapter: LoraArgs, file: Path, module_name: str) -> None:
    if not hasattr(pipeline, "load_lora_weights"):
        raise SourceError(name, adapter.source, "this kind of model takes no LoRA adapters")
    # `low_cpu_mem_usage=False` copies the weights, and so converts them to the model's dtype.
    pipeline.load_lora_weights(
        str(file.parent),
        weight_name=file.name,
        adapter_name=module_name,
        local_files_only=True,
        low_cpu_mem_usage=False,
    )
    # diffusers skips weights that fit nowhere, without an error.
    if not any(module_name in adapters for adapters in pipeline.get_list_adapters().values()):
        raise SourceError(name, adapter.source, "nothing in it fits this model")


def _find_file(name: str, adapter: LoraArgs, trust: Collection[str]) -> Path:
    """Find the one file with the weights; never a pickle, which runs code when loaded."""
    folder = resolve_source(name, adapter.source, trust)
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
