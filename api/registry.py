"""Which models there are: id → kind, card, state and backend.

The registry is immutable and swapped whole, so that a request sees one consistent set of models
from start to end, however often the set changes while it runs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from api.errors import ModelFailedError, ModelNotFoundError, ModelStartingError, WrongModelKindError
from api.ports.embeddings import EmbeddingBackend
from api.ports.images import ImageBackend
from api.ports.tenancy import Key, ModelKind
from api.ports.text import LlmBackend

State = Literal["ready", "idle", "starting", "failed"]
"""`idle` has no replica because it is scaled to zero: a request wakes it."""

_ENDPOINTS: dict[ModelKind, str] = {
    "llm": "/v1/chat/completions and /v1/completions",
    "embedding": "/v1/embeddings, /v1/rerank and /v1/score",
    "diffusion": "/v1/images/generations and /v1/images/edits",
}
_MAX_ID_IN_MESSAGE = 64


UsagePlacement = Literal["own_chunk", "last_chunk"]
"""Where a stream's usage goes: a chunk of its own as at OpenAI, or the last one with content."""
Backend = LlmBackend | EmbeddingBackend | ImageBackend


@dataclass(frozen=True, slots=True)
class TextOptions:
    """What an LLM is to clients, beyond its name."""

    adapters: tuple[str, ...] = ()
    """Names of its LoRA adapters."""
    default_max_tokens: int | None = None
    """What a request gets that does not say; None leaves it to the endpoint."""
    usage_placement: UsagePlacement = "own_chunk"
    unsupported: frozenset[str] = frozenset()
    """Parameters that this service honours, but not with this model."""
    fingerprint: str = "fp_unknown"
    """Changes with whatever could change its answers."""


@dataclass(frozen=True, slots=True)
class Llm:
    """An LLM as one request uses it."""

    backend: LlmBackend
    options: TextOptions = TextOptions()
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class ImageModel:
    """An image model as one request uses it."""

    backend: ImageBackend
    capabilities: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One configured model."""

    id: str
    kind: ModelKind
    state: State
    backend: Backend
    created_s: int
    """Unix time at which it was deployed."""
    message: str | None = None
    """Why it is not ready, in one line; None when it is."""
    text: TextOptions = field(default_factory=TextOptions)
    """For an LLM."""
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    """Its limits as its card tells them, such as dimensions or sizes."""
    is_hidden: bool = False
    """Whether it is there for its adapters only, because a key may use these and not itself."""

    def card(self) -> dict[str, Any]:
        """The model object of `/v1/models`, and our extension of it.

        Source: OpenAI openapi.yaml, schema `Model`.
        """
        return {
            "id": self.id,
            "object": "model",
            "created": self.created_s,
            "owned_by": "triptych",
            "triptych": {"kind": self.kind, **self.capabilities},
        }

    def cards(self) -> list[dict[str, Any]]:
        """Its own card, and those of its adapters, with `parent` and `root` as vLLM has them."""
        card = self.card()
        own = [] if self.is_hidden else [card]
        adapters = [
            {**card, "id": name, "root": name, "parent": self.id} for name in self.text.adapters
        ]
        return [*own, *adapters]

    def for_key(self, key: Key) -> "ModelEntry | None":
        """What a key may use of it; an adapter is allowed by its own name or by `model:adapter`."""
        names = self.text.adapters
        adapters = tuple(
            name for name in names if key.may_use(name) or key.may_use(f"{self.id}:{name}")
        )
        is_hidden = not key.may_use(self.id)
        if is_hidden and not adapters:
            return None
        return replace(self, text=replace(self.text, adapters=adapters), is_hidden=is_hidden)


class Registry:
    """The models of one moment, in the order of the configuration."""

    def __init__(self, entries: Iterable[ModelEntry] = ()) -> None:
        """Index the entries by id, and adapters by every name that they go by."""
        self._all = {entry.id: entry for entry in entries}
        self._entries = {id: entry for id, entry in self._all.items() if not entry.is_hidden}
        self._views: dict[tuple[str, ...], Registry] = {}
        self._adapters: dict[str, tuple[ModelEntry, str]] = {}
        for entry in self._all.values():
            for name in entry.text.adapters:
                self._adapters.setdefault(name, (entry, name))
                self._adapters[f"{entry.id}:{name}"] = (entry, name)

    def __iter__(self) -> Iterator[ModelEntry]:
        """Iterate over the entries."""
        return iter(self._entries.values())

    def for_key(self, key: Key) -> "Registry":
        """The models that a key may use, as if there were no others."""
        if "*" in key.models:
            return self
        view = self._views.get(key.models)
        if view is None:
            seen = [entry.for_key(key) for entry in self._all.values()]
            view = self._views[key.models] = Registry(filter(None, seen))
        return view

    def cards(self) -> list[dict[str, Any]]:
        """The cards of all models and adapters."""
        return [card for entry in self._all.values() for card in entry.cards()]

    def find(self, model_id: str) -> ModelEntry | None:
        """Look a model up, whatever its kind and state."""
        return self._entries.get(model_id)

    def find_card(self, model_id: str) -> dict[str, Any] | None:
        """The card of a model or adapter."""
        entry = self.find(model_id)
        if entry is not None:
            return entry.card()
        entry, name = self._adapters.get(model_id, (None, ""))
        cards = entry.cards() if entry else []
        return next((card for card in cards if card["id"] == name), None)

    def get_llm(self, model_id: str, peft: str | None = None) -> Llm:
        """An LLM by its id, or by a LoRA adapter's.

        Three dialects name an adapter: by itself, as `model:adapter`, and beside the model as
        `peft`. A name of a model always means the model.

        Raises:
            ModelNotFoundError: no such id, or the model has no such adapter.
            Others as `get`.
        """
        entry, adapter = self._entries.get(model_id), peft
        if entry is None and model_id in self._adapters:
            entry, adapter = self._adapters[model_id]
            if peft not in (None, adapter):
                raise model_not_found(f"{model_id}:{peft}", param="peft")
        if entry is None:
            raise model_not_found(model_id)
        backend = cast(LlmBackend, _get_backend(entry, "llm"))
        if adapter is not None and adapter not in entry.text.adapters:
            raise model_not_found(f"{entry.id}:{adapter}", param="peft")
        return Llm(backend, entry.text, adapter)

    def get_embedding(self, model_id: str) -> EmbeddingBackend:
        """The encoder of that id; raises what `get` raises."""
        return cast(EmbeddingBackend, self.get(model_id, "embedding"))

    def get_diffusion(self, model_id: str) -> ImageModel:
        """The image model of that id; raises what `get` raises."""
        backend = cast(ImageBackend, self.get(model_id, "diffusion"))
        return ImageModel(backend, self._entries[model_id].capabilities)

    def get(self, model_id: str, kind: ModelKind) -> Backend:
        """Look a model up for use.

        Raises:
            ModelNotFoundError: no such id.
            WrongModelKindError: it serves another endpoint.
            ModelStartingError: it is still being loaded.
            ModelFailedError: it could not be loaded.
        """
        entry = self._entries.get(model_id)
        if entry is None:
            raise model_not_found(model_id)
        return _get_backend(entry, kind)


def _get_backend(entry: ModelEntry, kind: ModelKind) -> Backend:
    if entry.kind != kind:
        raise WrongModelKindError(
            f"The model '{entry.id}' is of kind '{entry.kind}': it serves "
            f"{_ENDPOINTS[entry.kind]}, not this endpoint.",
            param="model",
        )
    if entry.state == "starting":
        raise ModelStartingError(f"The model '{entry.id}' is being loaded; try again shortly.")
    if entry.state == "failed":
        raise ModelFailedError(f"The model '{entry.id}' could not be loaded.", param="model")
    return entry.backend


def model_not_found(model_id: str, param: str = "model") -> ModelNotFoundError:
    """The error for an id that is not configured."""
    shown = model_id[:_MAX_ID_IN_MESSAGE] + ("…" if len(model_id) > _MAX_ID_IN_MESSAGE else "")
    return ModelNotFoundError(
        f"The model '{shown}' does not exist; GET /v1/models lists those that do.", param=param
    )


class Models:
    """Where the current registry is to be had: one writer swaps it, requests read it."""

    def __init__(self, current: Registry | None = None) -> None:
        """Start with the given registry, or with none known."""
        self.current = current or Registry()
        self.is_known = current is not None
        """False until the models have been looked up once."""

    def swap(self, registry: Registry) -> None:
        """Replace the registry for all requests that begin from now on."""
        self.current = registry
        self.is_known = True

    def for_key(self, key: Key) -> Registry:
        """The current registry, as a key may see it."""
        return self.current.for_key(key)
