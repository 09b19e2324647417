"""The API keys in the database, which has only digests of their secrets."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import Row, Select, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.access.key_format import digest, new_secret
from api.admin.key_schema import apply_changes, to_key_object
from api.errors import InvalidRequestError, KeyNotFoundError, quote
from api.ports.administration import NewSecret
from api.ports.tenancy import Key, KeyLimits
from deployments.ledger.audit_log import AuditLog
from deployments.ledger.pepper import to_pepper_fingerprint
from deployments.ledger.records import StoredKey
from deployments.ledger.store.database import Database
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.tables import changes as changes_table
from deployments.ledger.store.tables import keys

_TO_CHANGE = select(keys).with_for_update()
"""Locks the row against other writers; SQLite has one writer at a time anyway."""


_LIMIT_NAMES = frozenset(field.name for field in fields(KeyLimits))
"""A later version may have stored others."""


class KeyStore:
    """The port `api.ports.administration.KeyAdministration` on a database.

    All methods raise StoreError if the database cannot be used.
    """

    def __init__(self, database: Database, pepper: bytes, audit: AuditLog | None = None) -> None:
        """Store keys in `database`; call `prepare` first.

        Args:
            database: also where usage is stored.
            pepper: the secret that keys are digested with.
            audit: where changes are written.
        """
        self._database = database
        self._pepper = pepper
        self._audit = audit
        self.pepper_fingerprint = to_pepper_fingerprint(pepper)

    async def prepare(self) -> None:
        """Migrate the tables, and check the pepper: the first one used is the database's.

        Raises:
            StoreError: the database's keys are digested with another pepper, so none of ours
                would authenticate.
        """
        await self._database.migrate()
        is_unset = changes_table.c.pepper_fingerprint.is_(None)
        values = {"pepper_fingerprint": self.pepper_fingerprint}
        async with self._database.writing() as connection:
            await connection.execute(update(changes_table).where(is_unset).values(values))
            found = (
                await connection.execute(select(changes_table.c.pepper_fingerprint))
            ).scalar_one()
        if found != self.pepper_fingerprint:
            raise StoreError(
                "the keys in this database are made with another pepper: TRIPTYCH_PEPPER, or the "
                "file 'pepper' in the home folder, must be the service's"
            )

    async def create_key(self, fields: Mapping[str, Any]) -> NewSecret:
        """Create a key.

        Args:
            fields: fields of `Key`; `name` is required, and `tenant` defaults to it.

        Raises:
            InvalidRequestError: another key has the name.
        """
        key_id, secret = new_secret()
        made = {"id": key_id, "tenant": fields["name"], "created_at_s": time.time()}
        key = Key(**{**made, **fields})
        row = {**_to_row(key), "digest": digest(self._pepper, secret)}
        async with self._database.writing() as connection:
            await _write(connection, key, insert(keys).values(row))
        self._audit_event("key_created", key, **_shown(key))
        return NewSecret(key, secret)

    async def list_keys(self) -> Sequence[Key]:
        """Return all keys, oldest first."""
        return [stored.key for stored in await self.list_stored()]

    async def list_stored(self) -> list[StoredKey]:
        """Return all keys, oldest first, with their digests."""
        async with self._database.reading() as connection:
            rows = await connection.execute(select(keys).order_by(keys.c.created_at_s, keys.c.id))
            return [_to_stored(row) for row in rows]

    async def version(self) -> int:
        """Return a number that grows with every change of a key; read it before the keys."""
        async with self._database.reading() as connection:
            return int((await connection.execute(select(changes_table.c.version))).scalar_one())

    async def get_key(self, id_or_name: str) -> Key:
        """Return one key.

        Raises:
            KeyNotFoundError: no key has this id or name; the methods below raise it too.
        """
        async with self._database.reading() as connection:
            return (await _get(connection, id_or_name, select(keys))).key

    async def change_key(self, id_or_name: str, changes: Mapping[str, Any]) -> Key:
        """Replace some fields of a key; a mapping for `limits` replaces some of the limits.

        Raises:
            InvalidRequestError: another key has the new name.
        """
        async with self._database.writing() as connection:
            before = (await _get(connection, id_or_name)).key
            key = apply_changes(before, changes)
            statement = update(keys).where(keys.c.id == key.id).values(_to_row(key))
            await _write(connection, key, statement)
        self._audit_changes(before, key)
        return key

    async def rotate_key(self, id_or_name: str, grace_s: float) -> NewSecret:
        """Give a key a new secret; the old one opens for `grace_s` more seconds."""
        async with self._database.writing() as connection:
            stored = await _get(connection, id_or_name)
            key, has_grace = stored.key, grace_s > 0
            _, secret = new_secret(key.id)
            digests = {
                "digest": digest(self._pepper, secret),
                "previous_digest": stored.digest if has_grace else None,
                "previous_until_s": time.time() + grace_s if has_grace else None,
            }
            await _write(connection, key, update(keys).where(keys.c.id == key.id).values(digests))
        self._audit_event("key_rotated", key, grace_s=grace_s)
        return NewSecret(key, secret)

    async def delete_key(self, id_or_name: str) -> None:
        """Delete a key; its usage stays."""
        async with self._database.writing() as connection:
            key = (await _get(connection, id_or_name)).key
            await _write(connection, key, delete(keys).where(keys.c.id == key.id))
        self._audit_event("key_deleted", key)

    def _audit_changes(self, before: Key, key: Key) -> None:
        shown_before = _shown(before)
        changed = {
            name: value for name, value in _shown(key).items() if value != shown_before[name]
        }
        if changed.pop("disabled", None) is not None:
            self._audit_event("key_disabled" if key.is_disabled else "key_enabled", key)
        if changed:
            self._audit_event("key_changed", key, changes=changed)

    def _audit_event(self, event: str, key: Key, **fields: Any) -> None:
        if self._audit is not None:
            self._audit.write(event, **{"key_id": key.id, "name": key.name, **fields})


def _shown(key: Key) -> dict[str, Any]:
    left_out = ("object", "id", "created_at", "hint")
    return {name: value for name, value in to_key_object(key).items() if name not in left_out}


async def _get(
    connection: AsyncConnection, id_or_name: str, query: Select[Any] = _TO_CHANGE
) -> StoredKey:
    """Read the key with that id, else the one with that name.

    Raises:
        KeyNotFoundError: there is neither.
    """
    by_either = or_(keys.c.id == id_or_name, keys.c.name == id_or_name)
    # Names are printable, and PostgreSQL raises an error for a NUL.
    is_possible = id_or_name.isprintable()
    rows = (await connection.execute(query.where(by_either))).all() if is_possible else []
    if not rows:
        quoted = ascii(quote(id_or_name))
        raise KeyNotFoundError(f"There is no API key with the id or name {quoted}.")
    return _to_stored(min(rows, key=lambda row: row.id != id_or_name))


async def _write(connection: AsyncConnection, key: Key, statement: Any) -> None:
    """Change a key, and the version by which other processes notice.

    Raises:
        InvalidRequestError: another key has the name.
    """
    try:
        await connection.execute(statement)
    except IntegrityError:
        raise InvalidRequestError(
            f"There is a key named '{key.name}' already.", param="name"
        ) from None
    await connection.execute(update(changes_table).values(version=changes_table.c.version + 1))


def _to_row(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "models": list(key.models),
        "scopes": sorted(key.scopes),
        # Those that are set: an earlier version knows fewer, and may read the same database.
        "limits": {name: limit for name, limit in asdict(key.limits).items() if limit is not None},
        "priority": key.priority,
        "may_log_prompts": key.may_log_prompts,
        "created_at_s": key.created_at_s,
        "expires_at_s": key.expires_at_s,
        "is_disabled": key.is_disabled,
    }


def _to_stored(row: Row[Any]) -> StoredKey:
    members = dict(row._mapping)
    digests = [members.pop(name) for name in ("digest", "previous_digest", "previous_until_s")]
    members["models"] = tuple(members["models"])
    members["scopes"] = frozenset(members["scopes"])
    limits = members["limits"].items()
    members["limits"] = KeyLimits(**{name: each for name, each in limits if name in _LIMIT_NAMES})
    return StoredKey(Key(**members), *digests)
