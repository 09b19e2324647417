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
FINGERPRINT = to_pepper_fingerprint(PEPPER)
ANN = Key("k0000001", "ann", "acme")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty home, and no key in the environment."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))
    monkeypatch.delenv("TRIPTYCH_API_KEYS", raising=False)
    return tmp_path


def names(keys: KeySource, *secrets: str) -> list[str | None]:
    """The names of the keys that these secrets authenticate, or None."""
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
def test_environment_holds_keys_separated_by_commas_or_space(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", value)

    assert accepted("sk-one", "sk-two", "", " ", "sk-three") == [True, True, False, False, False]


def test_key_of_the_file_is_accepted(home: Path) -> None:
    (home / "api_key").write_text("sk-file\n")

    assert accepted("sk-file", "sk-one") == [True, False]


def test_file_may_hold_one_key_per_line(home: Path) -> None:
    (home / "api_key").write_text("sk-one\nsk-two,\n")

    assert accepted("sk-one", "sk-two") == [True, True]


def test_environment_takes_precedence_over_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "api_key").write_text("sk-file\n")
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")

    assert accepted("sk-one", "sk-file") == [True, False]


def test_empty_environment_falls_back_to_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "api_key").write_text("sk-file\n")
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "")

    assert accepted("sk-file") == [True]


def test_invalid_key_is_refused_and_not_shown(monkeypatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-schlüssel")

    with pytest.raises(ValueError, match="ASCII") as caught:
        KeySource(PEPPER)

    assert "schl" not in str(caught.value)


def test_environment_keys_are_accepted_before_the_ledger_is_known(monkeypatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")
    keys = KeySource(PEPPER)

    assert names(keys, "sk-one", "sk-ann") == [keys.keys.current.find("sk-one", 0.0).name, None]
    assert not keys.keys.is_known


def test_without_a_ledger_the_environment_keys_are_all(monkeypatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")
    keys = KeySource(PEPPER)
    keys.use_environment_only()

    assert keys.keys.is_known
    assert names(keys, "sk-one") != [None]


@pytest.mark.parametrize("value", ["", ",", " , ,", "\n"])
def test_no_key_and_no_ledger_is_an_error_that_says_how_to_make_one(
    value: str, monkeypatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", value)
    keys = KeySource(PEPPER)
    hint = r"TRIPTYCH_API_KEYS.*scripts/serve.*deployments.app:ledger.*scripts/keys.*required: fals"
    with pytest.raises(NoApiKeysError, match=hint):
        keys.use_environment_only()

    assert not keys.keys.is_known


@pytest.mark.parametrize("content", ["", "\n"])
def test_empty_file_holds_no_key(home: Path, content: str) -> None:
    (home / "api_key").write_text(content)

    with pytest.raises(NoApiKeysError):
        KeySource(PEPPER).use_environment_only()


def test_ledger_keys_are_accepted_beside_the_environment_keys(monkeypatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")
    keys = KeySource(PEPPER)
    keys.update(KeySet([stored(ANN, "sk-ann")], FINGERPRINT))
    assert keys.keys.is_known
    assert names(keys, "sk-ann", "sk-bob") == ["ann", None]
    keys.update(KeySet([], FINGERPRINT))

    assert names(keys, "sk-ann") == [None]
    assert names(keys, "sk-one") != [None]


def test_rotated_key_has_two_secrets_during_the_grace_period() -> None:
    keys = KeySource(PEPPER)
    later_s = time.time() + 60
    keys.update(KeySet([stored(ANN, "sk-new", "sk-old", later_s)], FINGERPRINT))
    ring = keys.keys.current

    assert ring.find("sk-new", later_s + 1) == ring.find("sk-old", later_s - 1) == ANN
    assert ring.find("sk-old", later_s + 1) is None


def test_rotation_without_grace_leaves_one_secret() -> None:
    keys = KeySource(PEPPER)
    keys.update(KeySet([stored(ANN, "sk-new", "sk-old", time.time())], FINGERPRINT))

    assert names(keys, "sk-new", "sk-old") == ["ann", None]


def test_keys_with_another_pepper_are_ignored_and_reported(caplog) -> None:
    keys = KeySource(PEPPER)
    keys.update(KeySet([stored(ANN, "sk-ann")], FINGERPRINT))
    keys.update(KeySet([], to_pepper_fingerprint(b"q" * 32)))

    assert names(keys, "sk-ann") == ["ann"]
    assert "TRIPTYCH_PEPPER" in (keys.keys.note or "")
    assert "TRIPTYCH_PEPPER" in caplog.text


def test_keys_with_another_pepper_leave_the_keys_unknown() -> None:
    keys = KeySource(PEPPER)
    keys.update(KeySet([], to_pepper_fingerprint(b"q" * 32)))

    assert not keys.keys.is_known


def test_note_of_the_ledger_is_kept_until_the_next_keys() -> None:
    keys = KeySource(PEPPER)
    keys.update(KeySet([stored(ANN, "sk-ann")], FINGERPRINT, "the store is away"))
    assert keys.keys.note == "the store is away"
    assert names(keys, "sk-ann") == ["ann"]
    keys.update(KeySet([stored(ANN, "sk-ann")], FINGERPRINT))

    assert keys.keys.note is None


def test_known_keys_stay_valid_while_the_ledger_is_unreachable() -> None:
    keys = KeySource(PEPPER)
    keys.update(KeySet([stored(ANN, "sk-ann")], FINGERPRINT))
    keys.mark_stale()

    assert names(keys, "sk-ann") == ["ann"]
    assert "the ledger cannot be reached since" in (keys.keys.note or "")


def test_failures_are_counted_since_the_last_call() -> None:
    keys = KeySource(PEPPER)
    assert keys.keys.on_failure
    for _ in range(3):
        keys.keys.on_failure()

    assert (keys.pop_failures(), keys.pop_failures()) == (3, 0)


def test_secrets_do_not_show_in_repr_and_logs(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")
    keys = KeySource(PEPPER)
    keys.update(KeySet([stored(ANN, "sk-ann")], FINGERPRINT, "stale"))
    shown = f"{keys!r} {vars(keys)!r} {vars(keys.keys)!r} {caplog.text}"

    assert "sk-one" not in shown
    assert "sk-ann" not in shown


async def test_waiting_ends_once_the_keys_are_known_or_after_the_timeout():
    keys = KeySource(PEPPER)
    await keys.wait_until_known(timeout_s=0.01)
    assert not keys.keys.is_known

    waiting = asyncio.create_task(keys.wait_until_known(timeout_s=60))
    await asyncio.sleep(0)
    assert not waiting.done()
    keys.update(KeySet([stored(ANN, "sk-ann")], FINGERPRINT))
    async with asyncio.timeout(5):
        await waiting


async def test_without_a_ledger_waiting_ends_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-one")
    keys = KeySource(PEPPER)
    keys.use_environment_only()

    async with asyncio.timeout(5):
        await keys.wait_until_known(timeout_s=60)
