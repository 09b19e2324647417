import hmac
from dataclasses import replace

import pytest

from api.access.key_format import digest
from api.access.key_ring import KeyDigest, KeyRing, Keys, to_entries
from api.ports.tenancy import MODEL_SCOPES, Key
from tests.helpers.fakes import PEPPER, SECRET, keys_of

KEY = Key("k0000001", "ann", "acme")
PAST_S, FUTURE_S = 1.0, 4e9
ENVIRONMENT = KeyRing(to_entries(["sk-one", "sk-two"], PEPPER), PEPPER)


def ring_of(key: Key, until_s: float | None = None) -> KeyRing:
    return KeyRing([KeyDigest(key, digest(PEPPER, SECRET), until_s)], PEPPER)


def test_repr_of_ring_shows_number_of_secrets_only() -> None:
    assert repr(ENVIRONMENT) == str(ENVIRONMENT) == "KeyRing(2)"
    assert "sk-one" not in repr(vars(ENVIRONMENT))


def test_repr_of_entry_hides_its_digest() -> None:
    (entry,) = to_entries(["sk-one"], PEPPER)

    assert entry.digest == digest(PEPPER, "sk-one")
    assert "digest" not in repr(entry)


def test_empty_list_of_secrets_raises() -> None:
    with pytest.raises(ValueError, match="at least one API key"):
        to_entries([], PEPPER)


@pytest.mark.parametrize("key", ["x" * 257, "sk-öne", ""], ids=["long", "not ASCII", "empty"])
def test_secret_that_fits_no_header_raises_without_being_shown(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as caught:
        to_entries(["sk-one", key], PEPPER)

    assert key not in str(caught.value) or not key


def test_environment_keys_have_own_ids_and_all_scopes_but_admin() -> None:
    one, two = (ENVIRONMENT.find(secret, 0.0) for secret in ("sk-one", "sk-two"))

    assert one
    assert two
    assert one.id == one.name == f"env-{digest(PEPPER, 'sk-one').hex()[:8]}"
    assert one.id != two.id
    assert (one.tenant, one.models, one.scopes) == ("default", ("*",), MODEL_SCOPES)
    assert one.may_log_prompts
    assert not one.limits.has_any


@pytest.mark.parametrize("until_s", [None, FUTURE_S])
@pytest.mark.parametrize("expires_at_s", [None, FUTURE_S])
def test_secret_authenticates_until_it_or_its_key_expires(
    until_s: float | None, expires_at_s: float | None
) -> None:
    key = replace(KEY, expires_at_s=expires_at_s)

    assert ring_of(key, until_s).find(SECRET, FUTURE_S - 1) is key


def test_both_secrets_of_a_rotated_key_authenticate_until_the_old_one_expires() -> None:
    ring = KeyRing(
        [KeyDigest(KEY, digest(PEPPER, "old"), FUTURE_S), KeyDigest(KEY, digest(PEPPER, "new"))],
        PEPPER,
    )

    assert ring.find("old", FUTURE_S - 1) is ring.find("new", FUTURE_S - 1) is KEY
    assert ring.find("old", FUTURE_S) is None
    assert ring.find("new", FUTURE_S) is KEY


OFFERED = {
    "known": SECRET,
    "shares nothing": "x" * 64,
    "shares all but the last": SECRET[:-1] + "x",
    "longer": SECRET + "x",
    "as long as can be": "x" * 256,
    "expired": "expired",
    "disabled": "disabled",
    "rotated": "rotated",
}


@pytest.mark.parametrize("offered", OFFERED.values(), ids=OFFERED)
def test_look_up_costs_one_digest_and_one_comparison(
    offered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So its time does not tell which keys exist, nor how they begin."""
    ring = KeyRing(
        [
            KeyDigest(KEY, digest(PEPPER, SECRET)),
            KeyDigest(replace(KEY, expires_at_s=PAST_S), digest(PEPPER, "expired")),
            KeyDigest(replace(KEY, is_disabled=True), digest(PEPPER, "disabled")),
            KeyDigest(KEY, digest(PEPPER, "rotated"), PAST_S),
        ],
        PEPPER,
    )
    calls: list[str] = []
    compare, make = hmac.compare_digest, hmac.digest
    monkeypatch.setattr(hmac, "digest", lambda *args: (calls.append("digest"), make(*args))[1])
    monkeypatch.setattr(
        hmac, "compare_digest", lambda *args: (calls.append("comparison"), compare(*args))[1]
    )

    ring.find(offered, 2.0)

    assert calls == ["digest", "comparison"]


@pytest.mark.parametrize("offered", ["", "sk-öne", "x" * 257, "x" * 1_000_000])
def test_malformed_secret_is_not_digested(offered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmac, "digest", None)

    assert ENVIRONMENT.find(offered, 0.0) is None


def test_keys_are_unknown_until_the_first_swap() -> None:
    keys = Keys(KeyRing([], PEPPER))
    before = keys.is_known

    keys.swap(ring_of(KEY))

    assert (before, keys.is_known) == (False, True)


def test_swap_clears_the_note() -> None:
    keys = keys_of(KEY)
    keys.note = "the store does not answer"

    keys.swap(ring_of(KEY))

    assert keys.note is None
