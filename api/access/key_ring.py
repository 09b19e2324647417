"""The API keys in force: secrets are looked up by digest, and the ring is swapped as a whole."""

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from api.access.key_format import digest
from api.ports.tenancy import Key

_MAX_KEY_CHARS = 256


@dataclass(frozen=True, slots=True)
class KeyDigest:
    """One secret that opens for a key; a key that is being rotated has two."""

    key: Key
    digest: bytes = field(repr=False)
    until_s: float | None = None
    """Unix time at which this secret ends, whatever the key."""

    def is_active_at(self, now_s: float) -> bool:
        """Whether it lets anyone in."""
        return (self.until_s is None or now_s < self.until_s) and self.key.is_valid_at(now_s)


_NO_MATCH = KeyDigest(Key("", "", "", is_disabled=True), bytes(32))


class KeyRing:
    """Who may enter, at one moment; never changed, only replaced."""

    def __init__(self, entries: Iterable[KeyDigest], pepper: bytes) -> None:
        """Index entries whose digests were made with `pepper`."""
        self._entries = {entry.digest: entry for entry in entries}
        self._pepper = pepper

    def __len__(self) -> int:
        """How many secrets there are."""
        return len(self._entries)

    def __repr__(self) -> str:
        """Show how many there are, and nothing of what they are."""
        return f"KeyRing({len(self)})"

    def find(self, offered: str, now_s: float) -> Key | None:
        """The key that a secret opens for.

        Whatever is offered, and whether it is known, costs one digest and one comparison.
        """
        if not _is_well_formed(offered):
            return None
        found = digest(self._pepper, offered)
        entry = self._entries.get(found, _NO_MATCH)
        if not hmac.compare_digest(found, entry.digest) or not entry.is_active_at(now_s):
            return None
        return entry.key


def to_entries(secrets: Iterable[str], pepper: bytes) -> list[KeyDigest]:
    """Entries for bare secrets: they open all models, without limits, and administer nothing.

    Raises:
        ValueError: there is none, or one that no client could offer.
    """
    secrets = list(secrets)
    if not secrets:
        raise ValueError("at least one API key is needed")
    if not all(_is_well_formed(secret) for secret in secrets):
        raise ValueError(f"an API key is 1 to {_MAX_KEY_CHARS} ASCII characters")
    return [_to_entry(digest(pepper, secret)) for secret in secrets]


def _to_entry(made: bytes) -> KeyDigest:
    # Nothing but the digest tells these keys apart, and a part of it opens nothing.
    name = f"env-{made.hex()[:8]}"
    return KeyDigest(Key(name, name, "default", may_log_prompts=True), made)


def _is_well_formed(secret: str) -> bool:
    return 0 < len(secret) <= _MAX_KEY_CHARS and secret.isascii()


class Keys:
    """Where the current key ring is to be had: one writer swaps it, requests read it."""

    def __init__(self, current: KeyRing, on_failure: Callable[[], None] | None = None) -> None:
        """Start with keys that need no looking up.

        Args:
            current: opens at once; whoever is not on it cannot be told yet.
            on_failure: called for each request that is refused with a 401.
        """
        self.current = current
        self.is_known = False
        """False until the keys have been looked up once."""
        self.note: str | None = None
        """Why the current ring may be out of date."""
        self.on_failure = on_failure

    @classmethod
    def of_environment(cls, secrets: Iterable[str], pepper: bytes) -> "Keys":
        """Bare secrets, and nothing to look up.

        Raises:
            ValueError: as `to_entries`.
        """
        keys = cls(KeyRing(to_entries(secrets, pepper), pepper))
        keys.is_known = True
        return keys

    def swap(self, ring: KeyRing) -> None:
        """Replace the ring for all requests that begin from now on."""
        self.current = ring
        self.is_known = True
        self.note = None
