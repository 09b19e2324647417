import hashlib
import hmac
import re
import string

from hypothesis import given
from hypothesis import strategies as st

from api.access.key_format import digest, find_id, is_mistyped, new_secret, to_hint

_, KEY = new_secret("Abcd1234")
_TEXT = string.ascii_letters + string.digits + "-_ é"


def test_a_key_says_whose_it_is_and_what_it_is() -> None:
    key_id, key = new_secret()

    assert re.fullmatch(r"sk-triptych-[A-Za-z0-9]{8}-[A-Za-z0-9_-]{43}-[A-Za-z0-9]{6}", key)
    assert key[12:20] == key_id == find_id(key)
    assert not is_mistyped(key)


def test_no_two_keys_are_alike() -> None:
    made = [new_secret() for _ in range(100)]

    assert len({key_id for key_id, _ in made}) == len({key for _, key in made}) == 100


def test_a_new_secret_may_keep_its_id() -> None:
    key_id, key = new_secret("Abcd1234")

    assert key_id == find_id(key) == "Abcd1234"
    assert key != KEY


@given(st.integers(0, len(KEY) - 1), st.sampled_from(_TEXT))
def test_every_change_of_a_character_is_noticed(position: int, character: str) -> None:
    changed = KEY[:position] + character + KEY[position + 1 :]

    assert (find_id(changed) is None) == (changed != KEY)


@given(st.integers(12, len(KEY) - 1), st.sampled_from(string.ascii_letters + string.digits))
def test_a_wrong_letter_is_a_typing_error(position: int, character: str) -> None:
    is_changed = KEY[position] not in (character, "-")
    changed = KEY[:position] + (character if is_changed else KEY[position]) + KEY[position + 1 :]

    assert is_mistyped(changed) == is_changed


@given(st.integers(0, len(KEY) - 2))
def test_every_swap_of_neighbours_is_noticed(position: int) -> None:
    swapped = KEY[:position] + KEY[position + 1] + KEY[position] + KEY[position + 2 :]

    assert (find_id(swapped) is None) == (swapped != KEY)


@given(st.integers(0, len(KEY) - 1), st.sampled_from(_TEXT))
def test_a_character_more_or_less_is_noticed(position: int, character: str) -> None:
    assert find_id(KEY[:position] + KEY[position + 1 :]) is None
    assert find_id(KEY[:position] + character + KEY[position:]) is None


@given(st.text())
def test_keys_of_other_forms_are_not_mistyped(key: str) -> None:
    assert not is_mistyped(key)
    assert find_id(key) is None


def test_a_key_that_scripts_serve_made_is_of_another_form() -> None:
    assert not is_mistyped("sk-triptych-" + "a" * 43)


def test_a_digest_needs_the_pepper() -> None:
    expected = hmac.new(b"pepper", KEY.encode(), hashlib.sha256).digest()

    assert digest(b"pepper", KEY) == expected != digest(b"salt", KEY)


def test_a_hint_holds_no_secret() -> None:
    assert to_hint("Abcd1234") == "sk-triptych-Abcd1234-…"
