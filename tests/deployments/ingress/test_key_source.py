import asyncio
import time
from pathlib import Path

import pytest

from api.access.key_format import digest
from api.ports.tenancy import Key
from deployments.ingress.key_source import KeySource, NoApiKeysError
from deployments.ledger.pepper import to_pepper_fingerprint
from deployments.ledger.protocol import KeySet
from deployments.ledger.records import StoredKey

PEPPER = b"p" * 32
MARK = to_pepper_fingerprint(PEPPER)
ANN = Key("k0000001", "ann", "acme")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty one, and no key in the environment."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))
    monkeypatch.delenv("TRIPTYCH_API_KEYS", raising=False)
    return tmp_path


def names(keys: KeySource, *secrets: str) -> list[str | None]:
    """Whose secrets these are."""
    found = [keys.keys.current.find(secret, time.time()) for secret in secrets]
    return [key and key.name for key in found]


def accepted(*secrets: str) -> list[bool]:
    return [name is not None for name in names(KeySource(PEPPER), *secrets)]


def stored(key: Key, secret: str, previous: str | None = None, until_s: float | None = None):
    return StoredKey(
        key, digest(PEPPER, secret), digest(PEPPER, previous) if previous else None, until_s
    )


@pytest.mark.parametrize(
    "value", ["sk-one,sk-two", " sk-one , sk-two ", "sk-one,,sk-two,", "sk-two\n,sk-one\n"]
)
def test_keys_of_the_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", value)

    assert accepted("sk-one", "sk-two", "", " ", "sk-three") == [True, True, False, False, False]


def test_key_of_the_file(home: Path) -> None:
    (home / "api_key").write_text("sk-file\n")

    assert accepted("sk-file", "sk-one") == [True, False]


def test_keys_of_the_file_may_stand_on_lines_of_their_own(home: Path) -> None:
    (home / "api_key").write_text("sk-one\nsk-two,\n")

    assert accepted("sk-one", "sk-two") == [True, True]


def test_environment_wins_over_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "api_key").write_text("sk-file\n")
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")

    assert accepted("sk-one", "sk-file") == [True, False]


def test_empty_environment_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "api_key").write_text("sk-file\n")
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "")

    assert accepted("sk-file") == [True]


def test_a_key_that_no_client_could_offer_refuses_to_start(monkeypatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-schlüssel")

    with pytest.raises(ValueError, match="ASCII") as caught:
        KeySource(PEPPER)

    assert "schl" not in str(caught.value)


def test_keys_of_the_environment_open_at_once_and_others_cannot_be_told_yet(monkeypatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")
    keys = KeySource(PEPPER)

    assert names(keys, "sk-one", "sk-ann") == [keys.keys.current.find("sk-one", 0.0).name, None]
    assert not keys.keys.is_known


def test_without_a_ledger_the_keys_of_the_environment_are_all(monkeypatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")
    keys = KeySource(PEPPER)
    keys.use_environment_only()

    assert keys.keys.is_known
    assert names(keys, "sk-one") != [None]


@pytest.mark.parametrize("value", ["", ",", " , ,", "\n"])
def test_no_key_and_no_ledger_refuses_to_start_and_says_how_to_make_one(
    value: str, monkeypatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", value)
    keys = KeySource(PEPPER)
    hint = r"TRIPTYCH_API_KEYS.*scripts/serve.*deployments.app:ledger.*scripts/keys.*required: fals"
    with pytest.raises(NoApiKeysError, match=hint):
        keys.use_environment_only()

    assert not keys.keys.is_known


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_file_is_no_key(home: Path, content: str) -> None:
    (home / "api_key").write_text(content)

    with pytest.raises(NoApiKeysError):
        KeySource(PEPPER).use_environment_only()


def test_keys_of_the_ledger_open_beside_those_of_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")
    keys = KeySource(PEPPER)
    keys.take(KeySet([stored(ANN, "sk-ann")], MARK))
    assert keys.keys.is_known
    assert names(keys, "sk-ann", "sk-bob") == ["ann", None]
    keys.take(KeySet([], MARK))

    assert names(keys, "sk-ann") == [None]
    assert names(keys, "sk-one") != [None]


def test_a_key_that_is_being_rotated_has_two_secrets_for_a_while() -> None:
    keys = KeySource(PEPPER)
    later_s = time.time() + 60
    keys.take(KeySet([stored(ANN, "sk-new", "sk-old", later_s)], MARK))
    ring = keys.keys.current

    assert ring.find("sk-new", later_s + 1) == ring.find("sk-old", later_s - 1) == ANN
    assert ring.find("sk-old", later_s + 1) is None


def test_a_rotation_without_grace_leaves_one_secret() -> None:
    keys = KeySource(PEPPER)
    keys.take(KeySet([stored(ANN, "sk-new", "sk-old", time.time())], MARK))

    assert names(keys, "sk-new", "sk-old") == ["ann", None]


def test_keys_made_with_another_pepper_change_nothing_and_are_reported(caplog) -> None:
    keys = KeySource(PEPPER)
    keys.take(KeySet([stored(ANN, "sk-ann")], MARK))
    keys.take(KeySet([], to_pepper_fingerprint(b"q" * 32)))

    assert names(keys, "sk-ann") == ["ann"]
    assert "TRIPTYCH_PEPPER" in (keys.keys.note or "")
    assert "TRIPTYCH_PEPPER" in caplog.text


def test_another_pepper_from_the_start_lets_nobody_be_told() -> None:
    keys = KeySource(PEPPER)
    keys.take(KeySet([], to_pepper_fingerprint(b"q" * 32)))

    assert not keys.keys.is_known


def test_a_note_of_the_ledger_is_passed_on_until_its_keys_are_up_to_date() -> None:
    keys = KeySource(PEPPER)
    keys.take(KeySet([stored(ANN, "sk-ann")], MARK, "the store is away"))
    assert keys.keys.note == "the store is away"
    assert names(keys, "sk-ann") == ["ann"]
    keys.take(KeySet([stored(ANN, "sk-ann")], MARK))

    assert keys.keys.note is None


def test_when_the_ledger_is_lost_those_who_were_let_in_still_are() -> None:
    keys = KeySource(PEPPER)
    keys.take(KeySet([stored(ANN, "sk-ann")], MARK))
    keys.mark_stale()

    assert names(keys, "sk-ann") == ["ann"]
    assert "the ledger cannot be reached since" in (keys.keys.note or "")


def test_failures_are_counted_from_one_look_to_the_next() -> None:
    keys = KeySource(PEPPER)
    assert keys.keys.on_failure
    for _ in range(3):
        keys.keys.on_failure()

    assert (keys.pop_failures(), keys.pop_failures()) == (3, 0)


def test_keys_do_not_show(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")
    keys = KeySource(PEPPER)
    keys.take(KeySet([stored(ANN, "sk-ann")], MARK, "stale"))
    shown = f"{keys!r} {vars(keys)!r} {vars(keys.keys)!r} {caplog.text}"

    assert "sk-one" not in shown
    assert "sk-ann" not in shown


async def test_a_replica_waits_until_the_keys_are_known_but_not_for_ever():
    keys = KeySource(PEPPER)
    await keys.wait_until_known(patience_s=0.01)
    assert not keys.keys.is_known

    waiting = asyncio.create_task(keys.wait_until_known(patience_s=60))
    await asyncio.sleep(0)
    assert not waiting.done()
    keys.take(KeySet([stored(ANN, "sk-ann")], MARK))
    async with asyncio.timeout(5):
        await waiting


async def test_without_a_ledger_there_is_nothing_to_wait_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")
    keys = KeySource(PEPPER)
    keys.use_environment_only()

    async with asyncio.timeout(5):
        await keys.wait_until_known(patience_s=60)
