import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from api.access.key_format import digest
from api.errors import InvalidRequestError, KeyNotFoundError
from api.ports.tenancy import MODEL_SCOPES, Key, KeyLimits
from deployments.ledger.audit_log import AuditLog
from deployments.ledger.records import StoredKey
from deployments.ledger.store.database import Database
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.keys import KeyStore
from deployments.ledger.store.tables import keys

PEPPER = b"p" * 32
ALL_FIELDS: dict[str, Any] = {
    "name": "app",
    "tenant": "acme",
    "models": ("llm*", "org/encoder"),
    "scopes": frozenset({"chat", "admin"}),
    "limits": KeyLimits(1, 2, 3, 4, 5, 2**53),
    "priority": "high",
    "may_log_prompts": True,
    "expires_at_s": 1_900_000_000.5,
}


@pytest.fixture
def audit_path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def store(database: Database, audit_path: Path) -> KeyStore:
    return KeyStore(database, PEPPER, AuditLog(audit_path, actor="test"))


def audited(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


async def only(store: KeyStore) -> StoredKey:
    (stored,) = await store.list_stored()
    return stored


async def test_new_key_has_its_own_tenant_and_all_scopes_but_admin(store: KeyStore) -> None:
    new = await store.create_key({"name": "app"})

    assert new.key == Key(
        new.key.id, "app", "app", scopes=MODEL_SCOPES, created_at_s=new.key.created_at_s
    )
    assert abs(new.key.created_at_s - time.time()) < 60
    assert new.secret.startswith(f"sk-triptych-{new.key.id}-")


async def test_every_field_is_stored(store: KeyStore) -> None:
    new = await store.create_key(ALL_FIELDS)

    assert new.key == Key(id=new.key.id, created_at_s=new.key.created_at_s, **ALL_FIELDS)
    assert await store.get_key("app") == await store.get_key(new.key.id) == new.key


async def test_only_a_digest_of_the_secret_is_stored(database: Database, store: KeyStore) -> None:
    new = await store.create_key({"name": "app"})
    async with database.reading() as connection:
        row = (await connection.execute(select(keys))).one()

    assert row.digest == digest(PEPPER, new.secret)
    assert new.secret[21:] not in str(row)


async def test_keys_are_listed_oldest_first(store: KeyStore) -> None:
    for name in ("b", "c", "a"):
        await store.create_key({"name": name})

    assert [key.name for key in await store.list_keys()] == ["b", "c", "a"]


async def test_duplicate_name_raises(store: KeyStore) -> None:
    await store.create_key({"name": "app"})
    with pytest.raises(InvalidRequestError, match="named 'app' already") as caught:
        await store.create_key({"name": "app"})

    assert caught.value.param == "name"
    assert await store.version() == 2


async def test_of_concurrent_creations_with_one_name_one_succeeds(store: KeyStore) -> None:
    made = [store.create_key({"name": "app"}) for _ in range(5)]
    outcomes = await asyncio.gather(*made, return_exceptions=True)

    assert sum(isinstance(outcome, InvalidRequestError) for outcome in outcomes) == 4
    assert len(await store.list_keys()) == 1


async def test_renaming_to_another_keys_name_raises(store: KeyStore) -> None:
    await store.create_key({"name": "app"})
    await store.create_key({"name": "other"})

    with pytest.raises(InvalidRequestError, match="named 'app' already"):
        await store.change_key("other", {"name": "app"})


async def test_id_takes_precedence_over_a_name(store: KeyStore) -> None:
    first = await store.create_key({"name": "app"})
    await store.create_key({"name": first.key.id})

    assert (await store.get_key(first.key.id)).name == "app"


@pytest.mark.parametrize("id_or_name", ["nothing", "", "a\0b", "\ud800", "' OR 1=1 --", "x" * 999])
async def test_unknown_key_raises_not_found(store: KeyStore, id_or_name: str) -> None:
    await store.create_key({"name": "app"})

    with pytest.raises(KeyNotFoundError):
        await store.get_key(id_or_name)
    with pytest.raises(KeyNotFoundError):
        await store.change_key(id_or_name, {"is_disabled": True})
    with pytest.raises(KeyNotFoundError):
        await store.rotate_key(id_or_name, 0)
    with pytest.raises(KeyNotFoundError):
        await store.delete_key(id_or_name)


async def test_every_field_can_be_changed(store: KeyStore) -> None:
    new = await store.create_key({"name": "first"})
    changed = await store.change_key("first", {**ALL_FIELDS, "is_disabled": True})
    made = {"id": new.key.id, "created_at_s": new.key.created_at_s}

    assert changed == Key(is_disabled=True, **made, **ALL_FIELDS)
    assert await store.get_key(new.key.id) == changed
    assert (await only(store)).digest == digest(PEPPER, new.secret)


async def test_concurrent_changes_of_different_limits_are_both_kept(store: KeyStore) -> None:
    await store.create_key({"name": "app", "limits": KeyLimits(1, 1, 1)})
    await asyncio.gather(
        store.change_key("app", {"limits": {"requests_per_minute": 2}}),
        store.change_key("app", {"limits": {"tokens_per_minute": None}}),
    )

    assert (await store.get_key("app")).limits == KeyLimits(2, None, 1)


async def test_rotation_keeps_the_id_and_ends_the_old_secret(store: KeyStore) -> None:
    old = await store.create_key({"name": "app"})
    new = await store.rotate_key("app", 0)

    assert new.key == old.key
    assert new.secret.startswith(f"sk-triptych-{old.key.id}-")
    assert await only(store) == StoredKey(old.key, digest(PEPPER, new.secret), None, None)


async def test_rotation_with_grace_keeps_the_old_secret_until_it_ends(store: KeyStore) -> None:
    old = await store.create_key({"name": "app"})
    new = await store.rotate_key("app", 60)
    stored = await only(store)

    assert stored.digest == digest(PEPPER, new.secret)
    assert stored.previous_digest == digest(PEPPER, old.secret)
    assert stored.previous_until_s == pytest.approx(time.time() + 60, abs=30)


async def test_rotation_without_grace_ends_an_earlier_grace(store: KeyStore) -> None:
    await store.create_key({"name": "app"})
    await store.rotate_key("app", 60)
    await store.rotate_key("app", 0)

    assert (await only(store)).previous_digest is None


async def test_deleted_key_is_gone(store: KeyStore) -> None:
    await store.create_key({"name": "app"})
    await store.delete_key("app")

    assert await store.list_stored() == []


async def test_each_change_raises_the_version(store: KeyStore) -> None:
    seen = [await store.version()]
    await store.create_key({"name": "app"})
    seen.append(await store.version())
    await store.change_key("app", {"is_disabled": True})
    seen.append(await store.version())
    await store.rotate_key("app", 60)
    seen.append(await store.version())
    await store.delete_key("app")
    seen.append(await store.version())

    assert seen == sorted(set(seen))


async def test_changes_are_audited(store: KeyStore, audit_path: Path) -> None:
    key_id = (await store.create_key({"name": "app", "limits": KeyLimits(5)})).key.id
    await store.change_key("app", {"name": "new", "is_disabled": True})
    await store.change_key("new", {"is_disabled": False})
    await store.change_key("new", {"is_disabled": False})
    await store.rotate_key("new", 60)
    await store.delete_key("new")
    created, *others = audited(audit_path)
    about = {"actor": "test", "key_id": key_id, "name": "new"}

    assert created["event"] == "key_created"
    assert created["actor"] == "test"
    assert created["limits"]["requests_per_minute"] == 5
    assert others == [
        {"event": "key_disabled", **about},
        {"event": "key_changed", **about, "changes": {"name": "new"}},
        {"event": "key_enabled", **about},
        {"event": "key_rotated", **about, "grace_s": 60},
        {"event": "key_deleted", **about},
    ]


async def test_failed_change_is_not_audited(store: KeyStore, audit_path: Path) -> None:
    await store.create_key({"name": "app"})
    with pytest.raises(InvalidRequestError):
        await store.create_key({"name": "app"})

    assert len(audited(audit_path)) == 1


async def test_audit_log_contains_no_secret(store: KeyStore, audit_path: Path) -> None:
    secrets = [(await store.create_key({"name": "app"})).secret]
    secrets.append((await store.rotate_key("app", 60)).secret)
    log = str(audited(audit_path))

    assert not any(secret[21:] in log for secret in secrets)
    assert not any(digest(PEPPER, secret).hex() in log for secret in secrets)


async def test_store_works_without_an_audit_log(database: Database) -> None:
    new = await KeyStore(database, PEPPER).create_key({"name": "app"})

    assert new.key.name == "app"


async def test_database_without_tables_raises(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(StoreError, match="keys"):
        await KeyStore(database, PEPPER).list_keys()
    await database.close()


async def test_another_pepper_than_the_databases_raises(
    database: Database, store: KeyStore
) -> None:
    await store.prepare()
    await store.prepare()

    with pytest.raises(StoreError, match="TRIPTYCH_PEPPER"):
        await KeyStore(database, b"q" * 32).prepare()


async def test_limits_that_are_not_set_are_not_stored(store: KeyStore, database: Database) -> None:
    """An earlier version knows fewer, and may read the same database."""
    await store.create_key({"name": "app", "limits": KeyLimits(tokens_per_minute=7)})
    async with database.reading() as connection:
        row = (await connection.execute(select(keys.c.limits))).one()

    assert row.limits == {"tokens_per_minute": 7}


async def test_limits_of_a_later_version_are_left_out(store: KeyStore, database: Database) -> None:
    await store.create_key({"name": "app"})
    async with database.writing() as connection:
        limits = {"tokens_per_minute": 7, "unknown_per_minute": 8}
        await connection.execute(update(keys).values(limits=limits))

    assert (await only(store)).key.limits == KeyLimits(tokens_per_minute=7)
