"""The JSON of `/v1/keys`: bodies of requests, and key objects of responses."""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from api.access.key_format import to_hint
from api.ports.administration import NewSecret
from api.ports.tenancy import SCOPES, Key, KeyLimits, PriorityClass, Scope
from api.schema.common import Request

MAX_GRACE_S = 30 * 86_400

_MAX_LIMIT = 2**53 - 1  # the largest integer that every JSON parser represents exactly
_MAX_TIME_S = 253_402_300_799  # the end of the year 9999, the last that Python's datetime has
_KEY_FIELDS = {"expires_at": "expires_at_s", "disabled": "is_disabled"}
"""Name on the wire → name in `Key`, where they differ."""


def _check_name(name: str) -> str:
    """Check that a name can be used in paths of URLs, in tables and in logs."""
    if not name.isprintable() or name != name.strip() or "/" in name or not name.strip("."):
        raise ValueError(
            "must be printable, without slashes or surrounding spaces, and not only dots"
        )
    return name


Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_check_name)]
Globs = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]],
    Field(min_length=1, max_length=64),
]
Scopes = Annotated[list[Scope], Field(min_length=1, max_length=len(SCOPES))]
UnixTime = Annotated[int, Field(ge=0, le=_MAX_TIME_S)]
Limit = Annotated[int, Field(ge=1, le=_MAX_LIMIT)]
"""Not 0: scopes forbid a kind of request altogether."""


class LimitFields(Request):
    """The limits of a new key; an absent limit is none."""

    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    images_per_minute: Limit | None = None
    pixel_steps_per_minute: Limit | None = None
    concurrent_requests: Limit | None = None
    tokens_per_day: Limit | None = None
    tokens_per_month: Limit | None = None


class LimitChanges(LimitFields):
    """Changes of limits: null removes a limit, an absent limit stays."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        return value


class _Settings(Request):
    """The fields that creation and change have in common."""

    tenant: Name | None = None
    models: Globs | None = None
    scopes: Scopes | None = None
    priority: PriorityClass | None = None
    may_log_prompts: bool | None = None
    expires_at: UnixTime | None = None

    def to_fields(self) -> dict[str, Any]:
        """Return the given fields with the names and types of `Key`."""
        members = self.model_dump(exclude_unset=True)
        fields = {_KEY_FIELDS.get(name, name): value for name, value in members.items()}
        if "models" in fields:
            fields["models"] = tuple(fields["models"])
        if "scopes" in fields:
            fields["scopes"] = frozenset(fields["scopes"])
        return fields


def _check_future(time_s: int) -> int:
    if time_s <= time.time():
        raise ValueError("must be in the future")
    return time_s


class KeyFields(_Settings):
    """The body of a request that creates a key; absent fields have the defaults of `Key`."""

    name: Name
    expires_at: Annotated[UnixTime, AfterValidator(_check_future)] | None = None
    limits: LimitFields = LimitFields()

    def to_fields(self) -> dict[str, Any]:
        """Return the fields for `Administration.create_key`."""
        return {**super().to_fields(), "limits": KeyLimits(**self.limits.model_dump())}


class KeyChanges(_Settings):
    """The body of a request that changes a key; absent fields stay.

    Null removes `expires_at`, all `limits`, or one of the limits.
    """

    name: Name | None = None
    limits: LimitChanges | None = None
    disabled: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kept = ("limits", "expires_at")
        return {
            name: member for name, member in value.items() if member is not None or name in kept
        }

    def to_fields(self) -> dict[str, Any]:
        """Return the fields for `Administration.change_key`; `limits` has only the changes."""
        fields = super().to_fields()
        if "limits" in fields and fields["limits"] is None:
            fields["limits"] = asdict(KeyLimits())
        return fields


class Rotation(Request):
    """The body of a request that rotates a key."""

    grace_s: Annotated[float, Field(ge=0, le=MAX_GRACE_S)] = 0.0
    """Seconds for which the old secret stays valid."""


def apply_changes(key: Key, changes: Mapping[str, Any]) -> Key:
    """Return a key with some fields replaced; a mapping `limits` replaces only its members."""
    limits = changes.get("limits", key.limits)
    if isinstance(limits, Mapping):
        limits = replace(key.limits, **limits)
    return replace(key, **{**changes, "limits": limits})


def to_key_object(key: Key) -> dict[str, Any]:
    """Render a key without its secret."""
    return {
        "object": "key",
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "models": list(key.models),
        "scopes": sorted(key.scopes),
        "limits": asdict(key.limits),
        "priority": key.priority,
        "may_log_prompts": key.may_log_prompts,
        "created_at": int(key.created_at_s),
        "expires_at": None if key.expires_at_s is None else int(key.expires_at_s),
        "disabled": key.is_disabled,
        "hint": to_hint(key.id),
    }


def to_new_key_object(new: NewSecret) -> dict[str, Any]:
    """Render a new key with its secret, which cannot be shown again."""
    return {**to_key_object(new.key), "key": new.secret}
