from dataclasses import replace

import pytest

from api.errors import ModelFailedError, ModelNotFoundError, WrongModelKindError
from api.ports.tenancy import Key, ModelKind
from api.registry import Backend, ModelEntry, Models, Registry, State, TextOptions
from tests.helpers.fakes import FakeEncoder, FakeLlm, FakePainter

BACKENDS: dict[ModelKind, Backend] = {
    "llm": FakeLlm(),
    "embedding": FakeEncoder(),
    "diffusion": FakePainter(),
}
KINDS: list[ModelKind] = ["llm", "embedding", "diffusion"]


def entry(kind: ModelKind = "llm", state: State = "ready", model_id: str = "a") -> ModelEntry:
    return ModelEntry(model_id, kind, state, BACKENDS[kind], 1_700_000_000)


def test_card_is_a_model_object() -> None:
    assert entry(model_id="org/a").card() == {
        "id": "org/a",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "triptych",
        "triptych": {"kind": "llm"},
    }


def test_entries_keep_their_order() -> None:
    registry = Registry(entry(model_id=model_id) for model_id in "cab")

    assert [each.id for each in registry] == ["c", "a", "b"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["ready", "idle"])
def test_ready_or_idle_model_is_returned(kind: ModelKind, state: State) -> None:
    assert Registry([entry(kind, state)]).get("a", kind) is BACKENDS[kind]


def test_unknown_model_is_not_found() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        Registry([entry()]).get("b", "llm")

    assert caught.value.param == "model"
    assert "'b'" in caught.value.message


@pytest.mark.parametrize("model_id", ["A", " a", "a ", "a/", "a\n"])
def test_id_must_match_exactly(model_id: str) -> None:
    with pytest.raises(ModelNotFoundError):
        Registry([entry()]).get(model_id, "llm")


def test_long_id_is_shortened_in_the_error() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        Registry().get("x" * 100_000, "llm")

    assert "'" + "x" * 64 + "…'" in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("kind", "wanted", "endpoint"),
    [
        ("llm", "embedding", "/v1/chat/completions and /v1/completions"),
        ("embedding", "diffusion", "/v1/embeddings"),
        ("diffusion", "llm", "/v1/images/generations"),
    ],
)
def test_error_of_a_wrong_kind_names_the_right_endpoints(
    kind: ModelKind, wanted: ModelKind, endpoint: str
) -> None:
    with pytest.raises(WrongModelKindError) as caught:
        Registry([entry(kind)]).get("a", wanted)

    assert caught.value.param == "model"
    assert endpoint in caught.value.message


@pytest.mark.parametrize(
    ("state", "is_loaded"),
    [("ready", True), ("failed", True), ("idle", False), ("starting", False)],
)
def test_models_without_a_replica_that_may_get_one_are_not_loaded(
    state: State, is_loaded: bool
) -> None:
    assert entry(state=state).is_loaded is is_loaded


def test_model_of_an_adapter_is_found_by_both_of_the_adapters_names() -> None:
    loud = replace(entry(), text=TextOptions(adapters=("loud",)), is_hidden=True)
    registry = Registry([loud])

    assert [registry.find_model_of(name) for name in ("a", "loud", "a:loud", "b")] == [
        *(loud, loud, loud),
        None,
    ]


def test_model_that_is_starting_can_be_called() -> None:
    starting = entry(state="starting")

    assert Registry([starting]).get("a", "llm") is starting.backend


def test_error_of_a_failed_model_hides_the_reason() -> None:
    failed = ModelEntry("a", "llm", "failed", FakeLlm(), 0, "no folder /srv/models/a")

    with pytest.raises(ModelFailedError) as caught:
        Registry([failed]).get("a", "llm")

    assert "/srv" not in caught.value.message


def test_wrong_kind_has_precedence_over_the_state() -> None:
    with pytest.raises(WrongModelKindError):
        Registry([entry("embedding", "starting")]).get("a", "llm")


def test_find_returns_models_of_any_kind_and_state() -> None:
    failed = entry("diffusion", "failed")

    assert Registry([failed]).find("a") is failed


def test_find_of_an_unknown_model_returns_none() -> None:
    assert Registry().find("a") is None


def test_models_begin_unknown() -> None:
    models = Models()

    assert not models.is_known
    assert list(models.current) == []


def test_models_with_an_initial_registry_are_known() -> None:
    assert Models(Registry()).is_known


def test_swap_replaces_all_models() -> None:
    models = Models(Registry([entry(model_id="old")]))

    models.swap(Registry([entry(model_id="new")]))

    assert [each.id for each in models.current] == ["new"]


def test_swap_makes_models_known() -> None:
    models = Models()

    models.swap(Registry())

    assert models.is_known


def test_each_kind_has_its_own_look_up() -> None:
    registry = Registry(entry(kind, model_id=kind) for kind in KINDS)

    assert registry.get_llm("llm").backend is BACKENDS["llm"]
    assert registry.get_embedding("embedding") is BACKENDS["embedding"]
    assert registry.get_diffusion("diffusion").backend is BACKENDS["diffusion"]


def with_adapters(model_id: str, *names: str) -> ModelEntry:
    text = TextOptions(adapters=names)
    return ModelEntry(model_id, "llm", "ready", BACKENDS["llm"], 1_700_000_000, text=text)


ADAPTED = Registry([with_adapters("base", "one", "two", "other"), with_adapters("other", "one")])


@pytest.mark.parametrize(
    ("model_id", "peft", "adapter"),
    [
        ("base", None, None),
        ("one", None, "one"),
        ("base:two", None, "two"),
        ("base", "two", "two"),
        ("one", "one", "one"),
        ("other:one", None, "one"),
    ],
)
def test_adapter_is_found_by_three_names(model_id: str, peft: str | None, adapter: str) -> None:
    assert ADAPTED.get_llm(model_id, peft).adapter == adapter


def test_name_of_model_and_adapter_means_the_model() -> None:
    llm = ADAPTED.get_llm("other")

    assert (llm.adapter, llm.options.adapters) == (None, ("one",))


@pytest.mark.parametrize(
    ("model_id", "peft", "param"),
    [
        ("base:three", None, "model"),
        ("base", "three", "peft"),
        ("base", "../../etc", "peft"),
        ("one", "two", "peft"),
        ("other", "two", "peft"),
    ],
)
def test_unknown_adapter_is_not_found(model_id: str, peft: str | None, param: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        ADAPTED.get_llm(model_id, peft)

    assert caught.value.param == param


def test_adapters_have_cards_with_their_parent() -> None:
    (first, *others) = with_adapters("base", "one", "two").cards()

    assert "parent" not in first
    assert [(card["id"], card["parent"], card["object"]) for card in others] == [
        ("one", "base", "model"),
        ("two", "base", "model"),
    ]
    card = ADAPTED.find_card("base:two")
    assert card is not None
    assert card["id"] == "two"
    assert ADAPTED.find_card("base:three") is None


def registry_for(*globs: str) -> Registry:
    return ADAPTED.for_key(Key("k", "k", "t", models=globs))


@pytest.mark.parametrize(
    ("globs", "ids"),
    [
        (("*",), ["base", "one", "two", "other", "other", "one"]),
        (("nothing", "*"), ["base", "one", "two", "other", "other", "one"]),
        (("base",), ["base"]),
        (("base", "two"), ["base", "two"]),
        (("base*",), ["base", "one", "two", "other"]),
        (("base:*",), ["one", "two", "other"]),
        (("one",), ["one", "one"]),
        (("other:one",), ["one"]),
        (("t?o",), ["two"]),
        (("BASE", "bas", "one:base"), []),
        ((), []),
    ],
)
def test_key_sees_the_models_and_adapters_of_its_globs(
    globs: tuple[str, ...], ids: list[str]
) -> None:
    assert [card["id"] for card in registry_for(*globs).cards()] == ids


@pytest.mark.parametrize("model_id", ["two", "base:two"])
def test_adapter_may_be_used_without_its_model(model_id: str) -> None:
    registry = registry_for("two")
    card = registry.find_card(model_id)

    assert registry.get_llm(model_id).adapter == "two"
    assert registry.get_llm(model_id).options.adapters == ("two",)
    assert card is not None
    assert (card["id"], card["parent"]) == ("two", "base")


@pytest.mark.parametrize(
    ("globs", "model_id", "peft", "param"),
    [
        (("two",), "base", None, "model"),
        (("two",), "base", "two", "model"),
        (("two",), "one", None, "model"),
        (("two",), "two", "one", "peft"),
        (("base",), "two", None, "model"),
        (("base",), "base:two", None, "model"),
        (("base",), "base", "two", "peft"),
        ((), "base", None, "model"),
    ],
)
def test_model_or_adapter_that_is_not_allowed_is_not_found(
    globs: tuple[str, ...], model_id: str, peft: str | None, param: str
) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        registry_for(*globs).get_llm(model_id, peft)

    assert caught.value.param == param


def test_hidden_model_has_no_card() -> None:
    registry = registry_for("two")

    assert registry.find_card("base") is None
    assert registry.find("base") is None
    assert list(registry) == []


def test_name_of_two_adapters_means_the_allowed_one() -> None:
    """`one` is the adapter of `base` for most keys, but this key may not use `base`."""
    llm = registry_for("other:one").get_llm("one")

    assert (llm.adapter, llm.options.adapters) == ("one", ("one",))


def test_keys_with_the_same_globs_share_a_view() -> None:
    assert registry_for("base") is registry_for("base")
    assert registry_for("base") is not registry_for("two")
    assert registry_for("*") is ADAPTED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["ready", "starting", "failed"])
def test_missing_permission_has_precedence_over_kind_and_state(
    kind: ModelKind, state: State
) -> None:
    models = Models(Registry([entry(kind, state)]))
    registry = models.for_key(Key("k", "k", "t", models=("b",)))

    with pytest.raises(ModelNotFoundError):
        registry.get("a", "llm")
