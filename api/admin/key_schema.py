"""The wire forms of API keys: what makes one, what changes one, and what is shown of one."""

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

_MAX_LIMIT = 2**53 - 1  # the largest whole number that every reader of JSON keeps exactly
_LAST_MOMENT_S = 253_402_300_799  # the end of the year 9999, where calendars stop
_KEY_FIELDS = {"expires_at": "expires_at_s", "disabled": "is_disabled"}
"""Name on the wire → in `Key`, where they differ."""


def _check_name(name: str) -> str:
    """Names stand in paths of URLs, in tables and in logs."""
    if not name.isprintable() or name != name.strip() or "/" in name or not name.strip("."):
        raise ValueError(
            "must be printable, with no slash and no space at its ends, and more than dots"
        )
    return name


Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_check_name)]
Globs = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]],
    Field(min_length=1, max_length=64),
]
Scopes = Annotated[list[Scope], Field(min_length=1, max_length=len(SCOPES))]
Moment = Annotated[int, Field(ge=0, le=_LAST_MOMENT_S)]
Limit = Annotated[int, Field(ge=1, le=_MAX_LIMIT)]
"""Not 0: what a key may not do at all, its scopes say."""


class LimitFields(Request):
    """`KeyLimits`, all of them."""

    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    images_per_minute: Limit | None = None
    concurrent_requests: Limit | None = None
    tokens_per_day: Limit | None = None
    tokens_per_month: Limit | None = None


class LimitChanges(LimitFields):
    """Some of `KeyLimits`: null takes a limit away, what is absent stays as it is."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        return value


class _Settings(Request):
    """What is said alike of a new key and of one that changes."""

    tenant: Name | None = None
    models: Globs | None = None
    scopes: Scopes | None = None
    priority: PriorityClass | None = None
    may_log_prompts: bool | None = None
    expires_at: Moment | None = None

    def to_fields(self) -> dict[str, Any]:
        """Those that are given, by their names in `Key` and of its types."""
        members = self.model_dump(exclude_unset=True)
        fields = {_KEY_FIELDS.get(name, name): value for name, value in members.items()}
        if "models" in fields:
            fields["models"] = tuple(fields["models"])
        if "scopes" in fields:
            fields["scopes"] = frozenset(fields["scopes"])
        return fields


def _check_future(moment_s: int) -> int:
    if moment_s <= time.time():
        raise ValueError("must be in the future; to end a key that there is, change or delete it")
    return moment_s


class KeyFields(_Settings):
    """The body of a request for a new key; what it does not say is as `Key` has it."""

    name: Name
    expires_at: Annotated[Moment, AfterValidator(_check_future)] | None = None
    limits: LimitFields = LimitFields()

    def to_fields(self) -> dict[str, Any]:
        """Fields for `Administration.create_key`."""
        return {**super().to_fields(), "limits": KeyLimits(**self.limits.model_dump())}


class KeyChanges(_Settings):
    """The body of a request for a change: what is absent stays as it is.

    A null for `limits`, for one of them or for `expires_at` means none.
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
        """Fields for `Administration.change_key`; `limits` holds only those that change."""
        fields = super().to_fields()
        if "limits" in fields and fields["limits"] is None:
            fields["limits"] = asdict(KeyLimits())
        return fields


class Rotation(Request):
    """The body of a request for a new secret."""

    grace_s: Annotated[float, Field(ge=0, le=MAX_GRACE_S)] = 0.0
    """For how long the old secret still opens."""


def apply_changes(key: Key, changes: Mapping[str, Any]) -> Key:
    """The key with some fields replaced; a mapping for `limits` replaces some of the limits."""
    limits = changes.get("limits", key.limits)
    if isinstance(limits, Mapping):
        limits = replace(key.limits, **limits)
    return replace(key, **{**changes, "limits": limits})


def to_key_object(key: Key) -> dict[str, Any]:
    """What anybody who may see the key is shown of it."""
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
    """The same and the secret, which is shown this once."""
    return {**to_key_object(new.key), "key": new.secret}
