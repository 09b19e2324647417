"""The port to the administration of keys and to the recorded usage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from api.ports.tenancy import Key

GroupBy = Literal["day", "key", "tenant", "user", "model", "kind"]


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A key with a new secret, of which only the digest is stored."""

    key: Key
    secret: str


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which records to sum up, and how to group them; None does not filter."""

    from_s: float
    """Unix time, included."""
    to_s: float
    """Unix time, excluded."""
    group_by: tuple[GroupBy, ...] = ("day", "key", "model")
    key_id: str | None = None
    tenant: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """Sums over the records of one group; fields that are not grouped by are None."""

    day: str | None = None
    """`YYYY-MM-DD`, UTC."""
    key_id: str | None = None
    key_name: str | None = None
    """None also for deleted keys and keys from the environment."""
    tenant: str | None = None
    user: str | None = None
    model: str | None = None
    kind: str | None = None
    requests: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    images: int
    image_steps: int
    image_pixel_steps: int


class KeyAdministration(Protocol):
    """Manages the stored API keys; errors are `ApiError`s for the client."""

    async def create_key(self, fields: Mapping[str, Any]) -> NewSecret:
        """Create a key.

        Args:
            fields: fields of `Key`; `name` is required, and the default of `tenant`.

        Raises:
            InvalidRequestError: another key has the name.
        """

    async def list_keys(self) -> Sequence[Key]:
        """Return all keys, oldest first."""

    async def get_key(self, id_or_name: str) -> Key:
        """Return one key.

        Raises:
            KeyNotFoundError: there is no such key; all methods below raise it too.
        """

    async def change_key(self, id_or_name: str, changes: Mapping[str, Any]) -> Key:
        """Replace some fields of a key.

        Args:
            id_or_name: the key.
            changes: fields of `Key`; `limits` is a mapping of the limits to replace, or a
                `KeyLimits` that replaces all.
        """

    async def rotate_key(self, id_or_name: str, grace_s: float) -> NewSecret:
        """Give a key a new secret; the old one stays valid for `grace_s` seconds."""

    async def delete_key(self, id_or_name: str) -> None:
        """Delete a key, but not its usage."""


class UsageReporting(Protocol):
    """Reports the recorded usage."""

    async def report_usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Return sums, sorted by the fields that they are grouped by."""


class Administration(KeyAdministration, UsageReporting, Protocol):
    """Keys and usage together."""
