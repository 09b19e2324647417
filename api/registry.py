"""The configured models: id → kind, card, state and backend.

The registry is immutable and replaced as a whole, so a request sees one consistent set of models
from start to end, even if the set changes meanwhile.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from api.errors import (
    ModelFailedError,
    ModelNotFoundError,
    WrongModelKindError,
    quote,
)
from api.ports.embeddings import EmbeddingBackend
from api.ports.images import ImageBackend
from api.ports.tenancy import Key, ModelKind
from api.ports.text import LlmBackend

State = Literal["ready", "idle", "starting", "failed"]
"""`idle`: scaled to zero replicas; a request starts one."""

_ENDPOINTS: dict[ModelKind, str] = {
    "llm": "/v1/chat/completions and /v1/completions",
    "embedding": "/v1/embeddings, /v1/rerank and /v1/score",
    "diffusion": "/v1/images/generations and /v1/images/edits",
}

UsagePlacement = Literal["own_chunk", "last_chunk"]
"""Where a stream's usage goes: a chunk of its own as at OpenAI, or the last chunk with content."""
Backend = LlmBackend | EmbeddingBackend | ImageBackend


@dataclass(frozen=True, slots=True)
class TextOptions:
    """What the endpoints need to know about an LLM."""

    adapters: tuple[str, ...] = ()
    """Names of its LoRA adapters."""
    default_max_tokens: int | None = None
    """Used when a request has no `max_tokens`; None leaves the default to the endpoint."""
    usage_placement: UsagePlacement = "own_chunk"
    template_options: frozenset[str] = frozenset()
    """Switches of its chat template that requests may set."""
    unsupported: frozenset[str] = frozenset()
    """Parameters that this service supports, but this model does not."""
    fingerprint: str = "fp_unknown"
    """Changes with everything that could change the model's answers."""


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
    """Unix time of its deployment."""
    message: str | None = None
    """Why the version that was deployed last is not in use, in one line; a version before it may
    be. None if there is nothing to say."""
    text: TextOptions = field(default_factory=TextOptions)
    """For LLMs only."""
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    """Members of the model's card, such as dimensions or sizes."""
    starting_since_s: float | None = None
    """Monotonic time at which it was first seen to be starting; None if it is not."""
    load_time_s: float | None = None
    """How long it took to load the last time; None if that has not been seen."""
    is_hidden: bool = False
    """The key may use adapters of this model, but not the model itself."""

    @property
    def is_loaded(self) -> bool:
        """Whether it has a replica, or will have none."""
        return self.state not in ("idle", "starting")

    def card(self) -> dict[str, Any]:
        """Render the model object of `/v1/models`, with the extension `triptych`.

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
        """Render the cards of the model and its adapters, with `parent` and `root` as in vLLM."""
        card = self.card()
        own = [] if self.is_hidden else [card]
        adapters = [
            {**card, "id": name, "root": name, "parent": self.id} for name in self.text.adapters
        ]
        return [*own, *adapters]

    def for_key(self, key: Key) -> "ModelEntry | None":
        """Reduce the entry to what a key may use; None if that is nothing.

        An adapter is allowed by its own name or by `model:adapter`.
        """
        names = self.text.adapters
        adapters = tuple(
            name for name in names if key.may_use(name) or key.may_use(f"{self.id}:{name}")
        )
        is_hidden = not key.may_use(self.id)
        if is_hidden and not adapters:
            return None
        return replace(self, text=replace(self.text, adapters=adapters), is_hidden=is_hidden)


class Registry:
    """An immutable set of models, in the order of the configuration."""

    def __init__(self, entries: Iterable[ModelEntry] = ()) -> None:
        """Index the entries by id, and adapters by `adapter` and `model:adapter`."""
        self._all = {entry.id: entry for entry in entries}
        self._entries = {id: entry for id, entry in self._all.items() if not entry.is_hidden}
        self._views: dict[tuple[str, ...], Registry] = {}
        self._adapters: dict[str, tuple[ModelEntry, str]] = {}
        for entry in self._all.values():
            for name in entry.text.adapters:
                self._adapters.setdefault(name, (entry, name))
                self._adapters[f"{entry.id}:{name}"] = (entry, name)

    def __iter__(self) -> Iterator[ModelEntry]:
        """Iterate over the entries that are not hidden."""
        return iter(self._entries.values())

    def for_key(self, key: Key) -> "Registry":
        """Return the registry of the models that a key may use."""
        if "*" in key.models:
            return self
        view = self._views.get(key.models)
        if view is None:
            entries = [entry.for_key(key) for entry in self._all.values()]
            view = self._views[key.models] = Registry(filter(None, entries))
        return view

    def cards(self) -> list[dict[str, Any]]:
        """Render the cards of all models and adapters."""
        return [card for entry in self._all.values() for card in entry.cards()]

    def find(self, model_id: str) -> ModelEntry | None:
        """Look up a model of any kind and state."""
        return self._entries.get(model_id)

    def find_model_of(self, model_id: str) -> ModelEntry | None:
        """Look up a model by its id or by one of its adapters, also if the model is hidden."""
        entry = self._all.get(model_id)
        return entry or self._adapters.get(model_id, (None, ""))[0]

    def find_card(self, model_id: str) -> dict[str, Any] | None:
        """Render the card of a model or adapter; None if there is none."""
        entry = self.find(model_id)
        if entry is not None:
            return entry.card()
        entry, name = self._adapters.get(model_id, (None, ""))
        cards = entry.cards() if entry else []
        return next((card for card in cards if card["id"] == name), None)

    def get_llm(self, model_id: str, peft: str | None = None) -> Llm:
        """Look up an LLM by its id or by the name of a LoRA adapter.

        Clients name an adapter in one of three ways: alone, as `model:adapter`, or beside the
        model as `peft`. A name that is also a model's means the model.

        Raises:
            ModelNotFoundError: no model has this id, or the model does not have the adapter.
            WrongModelKindError, ModelFailedError: as `get`.
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
        """Look up an embedding model; raises what `get` raises."""
        return cast(EmbeddingBackend, self.get(model_id, "embedding"))

    def get_diffusion(self, model_id: str) -> ImageModel:
        """Look up an image model; raises what `get` raises."""
        backend = cast(ImageBackend, self.get(model_id, "diffusion"))
        return ImageModel(backend, self._entries[model_id].capabilities)

    def get(self, model_id: str, kind: ModelKind) -> Backend:
        """Look up the backend of a model, whose requests wait while it is being loaded.

        Raises:
            ModelNotFoundError: no model has this id.
            WrongModelKindError: the model serves other endpoints.
            ModelFailedError: the model could not be loaded.
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
    if entry.state == "failed":
        raise model_failed(entry.id)
    return entry.backend


def model_failed(model_id: str) -> ModelFailedError:
    """Build the error for a model that has no replica, and will not have one."""
    return ModelFailedError(f"The model '{model_id}' could not be loaded.", param="model")


def model_not_found(model_id: str, param: str = "model") -> ModelNotFoundError:
    """Build the error for an id that is not configured, or not for this key."""
    return ModelNotFoundError(
        f"The model '{quote(model_id)}' does not exist; GET /v1/models lists those that do.",
        param=param,
    )


class Models:
    """Holds the current registry: one writer swaps it, requests read it."""

    def __init__(self, current: Registry | None = None) -> None:
        """Start with a registry, or with an empty one that is not known yet."""
        self.current = current or Registry()
        self.is_known = current is not None
        """False until the models have been loaded once."""

    def swap(self, registry: Registry) -> None:
        """Replace the registry for all later requests."""
        self.current = registry
        self.is_known = True

    def for_key(self, key: Key) -> Registry:
        """Return the part of the current registry that a key may use."""
        return self.current.for_key(key)
