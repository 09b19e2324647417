import pytest

from api.backends import Backend
from api.errors import ModelFailed, ModelNotFound, ModelStarting, WrongModelKind
from api.registry import Kind, ModelEntry, Models, Registry, State, TextOptions
from tests.fakes import FakeEncoder, FakeLlm, FakePainter

BACKENDS: dict[Kind, Backend] = {
    "llm": FakeLlm(),
    "embedding": FakeEncoder(),
    "diffusion": FakePainter(),
}
KINDS: list[Kind] = ["llm", "embedding", "diffusion"]


def entry(kind: Kind = "llm", state: State = "ready", model_id: str = "a") -> ModelEntry:
    return ModelEntry(model_id, kind, state, BACKENDS[kind], 1_700_000_000)


def test_card_is_a_model_object() -> None:
    assert entry(model_id="org/a").card() == {
        "id": "org/a",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "triptych",
    }


def test_entries_come_in_the_order_given() -> None:
    registry = Registry(entry(model_id=model_id) for model_id in "cab")

    assert [each.id for each in registry] == ["c", "a", "b"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["ready", "idle"])
def test_ready_or_idle_model_is_to_be_had(kind: Kind, state: State) -> None:
    assert Registry([entry(kind, state)]).get("a", kind) is BACKENDS[kind]


def test_unknown_model_is_not_found() -> None:
    with pytest.raises(ModelNotFound) as caught:
        Registry([entry()]).get("b", "llm")

    assert caught.value.param == "model"
    assert "'b'" in caught.value.message


@pytest.mark.parametrize("model_id", ["A", " a", "a ", "a/", "a\n"])
def test_id_must_match_exactly(model_id: str) -> None:
    with pytest.raises(ModelNotFound):
        Registry([entry()]).get(model_id, "llm")


def test_long_id_is_not_echoed_whole() -> None:
    with pytest.raises(ModelNotFound) as caught:
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
def test_wrong_kind_says_which_endpoint_serves_it(kind: Kind, wanted: Kind, endpoint: str) -> None:
    with pytest.raises(WrongModelKind) as caught:
        Registry([entry(kind)]).get("a", wanted)

    assert caught.value.param == "model"
    assert endpoint in caught.value.message


def test_starting_model_is_to_be_tried_again() -> None:
    with pytest.raises(ModelStarting, match="'a' is being loaded"):
        Registry([entry(state="starting")]).get("a", "llm")


def test_failed_model_does_not_say_why_to_clients() -> None:
    failed = ModelEntry("a", "llm", "failed", FakeLlm(), 0, "no folder /srv/models/a")

    with pytest.raises(ModelFailed) as caught:
        Registry([failed]).get("a", "llm")

    assert "/srv" not in caught.value.message


def test_wrong_kind_is_said_before_the_state() -> None:
    with pytest.raises(WrongModelKind):
        Registry([entry("embedding", "starting")]).get("a", "llm")


def test_find_does_not_mind_kind_or_state() -> None:
    failed = entry("diffusion", "failed")

    assert Registry([failed]).find("a") is failed


def test_find_may_find_nothing() -> None:
    assert Registry().find("a") is None


def test_models_begin_unknown() -> None:
    models = Models()

    assert not models.is_known
    assert list(models.current) == []


def test_models_begun_with_a_registry_are_known() -> None:
    assert Models(Registry()).is_known


def test_swap_replaces_all_models() -> None:
    models = Models(Registry([entry(model_id="old")]))

    models.swap(Registry([entry(model_id="new")]))

    assert [each.id for each in models.current] == ["new"]


def test_swap_makes_models_known() -> None:
    models = Models()

    models.swap(Registry())

    assert models.is_known


def test_each_kind_has_a_lookup_of_its_own() -> None:
    models = Models(Registry(entry(kind, model_id=kind) for kind in KINDS))

    assert models.llm("llm").backend is BACKENDS["llm"]
    assert models.embedding("embedding") is BACKENDS["embedding"]
    assert models.diffusion("diffusion") is BACKENDS["diffusion"]


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
def test_an_adapter_goes_by_three_names(model_id: str, peft: str | None, adapter: str) -> None:
    assert ADAPTED.get_llm(model_id, peft).adapter == adapter


def test_a_name_of_a_model_means_the_model() -> None:
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
def test_an_unknown_adapter_is_not_found(model_id: str, peft: str | None, param: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
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
