import json
import time
from dataclasses import asdict
from typing import Any

import pytest
from pydantic import ValidationError

from api.admin.key_schema import (
    MAX_GRACE_S,
    KeyChanges,
    KeyFields,
    Rotation,
    apply_changes,
    to_key_object,
    to_new_key_object,
)
from api.errors import InvalidRequestError, MissingParameterError, UnknownParameterError
from api.http.parsing import read_request
from api.ports.administration import NewSecret
from api.ports.tenancy import MODEL_SCOPES, Key, KeyLimits

KEY = Key(
    "Abcd1234",
    "app",
    "acme",
    limits=KeyLimits(requests_per_minute=5, tokens_per_day=7),
    created_at_s=1_700_000_000.5,
    expires_at_s=1_800_000_000.0,
)


def fields(**members: Any) -> dict[str, Any]:
    return read_request(json.dumps(members).encode(), KeyFields).request.to_fields()


def changes(**members: Any) -> dict[str, Any]:
    return read_request(json.dumps(members).encode(), KeyChanges).request.to_fields()


def test_name_is_the_only_required_field() -> None:
    assert fields(name="app") == {"name": "app", "limits": KeyLimits()}


def test_missing_name_is_refused() -> None:
    with pytest.raises(MissingParameterError):
        fields(tenant="acme")


def test_fields_have_the_names_and_types_of_key() -> None:
    made = fields(
        name="app",
        tenant="acme",
        models=["llm*", "org/encoder"],
        scopes=["chat", "admin"],
        limits={"requests_per_minute": 5},
        priority="high",
        may_log_prompts=True,
        expires_at=4_070_908_800,
    )

    assert Key(id="Abcd1234", **made) == Key(
        id="Abcd1234",
        name="app",
        tenant="acme",
        models=("llm*", "org/encoder"),
        scopes=frozenset({"chat", "admin"}),
        limits=KeyLimits(requests_per_minute=5),
        priority="high",
        may_log_prompts=True,
        expires_at_s=4_070_908_800,
    )


def test_null_in_a_new_key_is_the_default() -> None:
    nulls = dict.fromkeys(KeyFields.model_fields) | {"limits": dict.fromkeys(asdict(KeyLimits()))}

    assert fields(**nulls | {"name": "app"}) == fields(name="app")


@pytest.mark.parametrize(
    "name", ["", " app", "app ", "a\nb", "a\0b", "a/b", ".", "..", "a" * 65, "\u202eppa", 1]
)
def test_invalid_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        fields(name=name)

    assert caught.value.param == "name"


@pytest.mark.parametrize(
    "name", ["a", "a" * 64, "Größe 1", "team@example.com", "日本語", "a.b-c_d"]
)
def test_printable_name_is_accepted(name: str) -> None:
    assert fields(name=name)["name"] == name


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("tenant", ""),
        ("models", []),
        ("models", [""]),
        ("models", ["a" * 129]),
        ("models", ["a b"]),
        ("models", ["*"] * 65),
        ("models", "*"),
        ("scopes", []),
        ("scopes", ["root"]),
        ("limits", 5),
        ("limits", {"requests_per_minute": 0}),
        ("limits", {"requests_per_minute": 1.5}),
        ("limits", {"tokens_per_day": 2**53}),
        ("limits", {"requests_per_second": 1}),
        ("priority", "urgent"),
        ("may_log_prompts", 1),
        ("expires_at", -1),
        ("expires_at", "2027-01-01"),
        ("expires_at", 253_402_300_800),
        ("id", "Abcd1234"),
    ],
)
@pytest.mark.parametrize("read", [fields, changes])
def test_value_out_of_bounds_is_refused(read: Any, member: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(**{"name": "app", member: value})

    assert str(caught.value.param).startswith(member)


def test_new_key_cannot_be_disabled() -> None:
    with pytest.raises(UnknownParameterError):
        fields(name="app", disabled=True)


def test_empty_changes_change_nothing() -> None:
    assert apply_changes(KEY, changes()) == KEY


def test_null_of_a_required_field_changes_nothing() -> None:
    assert changes(name=None, tenant=None, models=None, priority=None, disabled=None) == {}


def test_null_removes_the_expiry() -> None:
    assert apply_changes(KEY, changes(expires_at=None)).expires_at_s is None


def test_change_of_one_limit_keeps_the_others() -> None:
    changed = apply_changes(KEY, changes(limits={"tokens_per_day": 8}))

    assert changed.limits == KeyLimits(requests_per_minute=5, tokens_per_day=8)


def test_null_removes_one_limit() -> None:
    changed = apply_changes(KEY, changes(limits={"tokens_per_day": None}))

    assert changed.limits == KeyLimits(requests_per_minute=5)


def test_null_removes_all_limits() -> None:
    assert apply_changes(KEY, changes(limits=None)).limits == KeyLimits()


def test_key_limits_replace_all_limits() -> None:
    limits = KeyLimits(images_per_minute=1)

    assert apply_changes(KEY, {"limits": limits}).limits == limits


def test_changes_have_the_names_and_types_of_key() -> None:
    made = changes(disabled=True, models=["llm"], scopes=["chat"], expires_at=9)

    assert made == {
        "is_disabled": True,
        "models": ("llm",),
        "scopes": frozenset({"chat"}),
        "expires_at_s": 9,
    }


def test_expiry_in_the_past_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="future") as caught:
        fields(name="app", expires_at=int(time.time()))
    assert caught.value.param == "expires_at"
    assert changes(expires_at=9) == {"expires_at_s": 9}


@pytest.mark.parametrize("body", [b"[]", b'"name"'])
def test_changes_that_are_no_object_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        read_request(body, KeyChanges)


def test_changes_that_are_no_dict_are_refused() -> None:
    with pytest.raises(ValidationError):
        KeyChanges.model_validate([])


@pytest.mark.parametrize(("body", "grace_s"), [({}, 0), ({"grace_s": 60}, 60)])
def test_rotation_has_no_grace_by_default(body: dict[str, Any], grace_s: float) -> None:
    assert read_request(json.dumps(body).encode(), Rotation).request.grace_s == grace_s


@pytest.mark.parametrize("grace_s", [-1, MAX_GRACE_S + 1, "60"])
def test_grace_out_of_bounds_is_refused(grace_s: Any) -> None:
    with pytest.raises(InvalidRequestError):
        read_request(json.dumps({"grace_s": grace_s}).encode(), Rotation)


def test_key_object_has_no_secret() -> None:
    assert to_key_object(KEY) == {
        "object": "key",
        "id": "Abcd1234",
        "name": "app",
        "tenant": "acme",
        "models": ["*"],
        "scopes": sorted(MODEL_SCOPES),
        "limits": {
            "requests_per_minute": 5,
            "tokens_per_minute": None,
            "images_per_minute": None,
            "concurrent_requests": None,
            "tokens_per_day": 7,
            "tokens_per_month": None,
            "pixel_steps_per_minute": None,
        },
        "priority": "normal",
        "may_log_prompts": False,
        "created_at": 1_700_000_000,
        "expires_at": 1_800_000_000,
        "disabled": False,
        "hint": "sk-triptych-Abcd1234-…",
    }


def test_key_object_without_expiry_has_null() -> None:
    assert to_key_object(Key("Abcd1234", "app", "app"))["expires_at"] is None


def test_new_key_object_has_the_secret() -> None:
    shown = to_new_key_object(NewSecret(KEY, "sk-whole"))

    assert shown.pop("key") == "sk-whole"
    assert shown == to_key_object(KEY)
