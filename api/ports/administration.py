"""The port to keys and usage: what an administrator does, and what is reported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from api.ports.tenancy import Key

GroupBy = Literal["day", "key", "tenant", "user", "model", "kind"]


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A key as it has just been made; nobody can show `secret` a second time."""

    key: Key
    secret: str


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which records to sum up, and by what. None lets all pass."""

    from_s: float
    """Unix time of the first moment."""
    to_s: float
    """Unix time of the first moment after the last."""
    group_by: tuple[GroupBy, ...] = ("day", "key", "model")
    key_id: str | None = None
    tenant: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """Sums over the records of one group; a field that was not grouped by is None."""

    day: str | None = None
    """`YYYY-MM-DD`, UTC."""
    key_id: str | None = None
    key_name: str | None = None
    """None also for keys of the environment, and for deleted ones."""
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
    """The API keys, wherever they are stored. Each method raises `ApiError`s for the client."""

    async def create_key(self, fields: Mapping[str, Any]) -> NewSecret:
        """Make a key of fields of `Key` (`name` is needed; `tenant` is the name unless given).

        Raises:
            InvalidRequestError: another key has the name.
        """

    async def list_keys(self) -> Sequence[Key]:
        """All keys, oldest first."""

    async def get_key(self, id_or_name: str) -> Key:
        """One key.

        Raises:
            KeyNotFoundError: there is none; so raise all methods below.
        """

    async def change_key(self, id_or_name: str, changes: Mapping[str, Any]) -> Key:
        """Replace some fields of a key, such as `is_disabled`.

        A mapping for `limits` replaces those limits that it names; a whole `KeyLimits` all.
        """

    async def rotate_key(self, id_or_name: str, grace_s: float) -> NewSecret:
        """Give a key a new secret; the old one opens for `grace_s` more seconds."""

    async def delete_key(self, id_or_name: str) -> None:
        """Forget a key; its usage stays."""


class UsageReporting(Protocol):
    """The recorded usage, wherever it is stored."""

    async def report_usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Sums, in the order of the fields grouped by."""


class Administration(KeyAdministration, UsageReporting, Protocol):
    """Keys and usage together, as the service offers them."""
