"""The API keys in force: looked up by digest, and replaced as a whole."""

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from api.access.failed_keys import FailedKeys
from api.access.key_format import digest
from api.ports.tenancy import Key

_MAX_KEY_CHARS = 256


@dataclass(frozen=True, slots=True)
class KeyDigest:
    """The digest of one secret of a key; a key that is being rotated has two secrets."""

    key: Key
    digest: bytes = field(repr=False)
    until_s: float | None = None
    """Unix time at which this secret expires; the key may expire earlier."""

    def is_active_at(self, now_s: float) -> bool:
        """Return whether the secret authenticates at a Unix time."""
        return (self.until_s is None or now_s < self.until_s) and self.key.is_valid_at(now_s)


_NO_MATCH = KeyDigest(Key("", "", "", is_disabled=True), bytes(32))


class KeyRing:
    """An immutable set of secrets."""

    def __init__(self, entries: Iterable[KeyDigest], pepper: bytes) -> None:
        """Index digests that were made with `pepper`."""
        self._entries = {entry.digest: entry for entry in entries}
        self._pepper = pepper

    def __len__(self) -> int:
        """Return the number of secrets."""
        return len(self._entries)

    def __repr__(self) -> str:
        """Show the number of secrets and nothing else."""
        return f"KeyRing({len(self)})"

    def find(self, offered: str, now_s: float) -> Key | None:
        """Return the key that a secret authenticates at a Unix time.

        Every look-up costs one digest and one comparison, so its time does not tell which
        secrets exist.
        """
        if not _is_well_formed(offered):
            return None
        found = digest(self._pepper, offered)
        entry = self._entries.get(found, _NO_MATCH)
        if not hmac.compare_digest(found, entry.digest) or not entry.is_active_at(now_s):
            return None
        return entry.key


def to_entries(secrets: Iterable[str], pepper: bytes) -> list[KeyDigest]:
    """Build keys for bare secrets: for all models, without limits and without the scope `admin`.

    Raises:
        ValueError: there is no secret, or one that does not fit into a header.
    """
    secrets = list(secrets)
    if not secrets:
        raise ValueError("at least one API key is needed")
    if not all(_is_well_formed(secret) for secret in secrets):
        raise ValueError(f"an API key is 1 to {_MAX_KEY_CHARS} ASCII characters")
    return [_to_entry(digest(pepper, secret)) for secret in secrets]


def _to_entry(secret_digest: bytes) -> KeyDigest:
    # These keys have no other name, and a part of the digest does not authenticate.
    name = f"env-{secret_digest.hex()[:8]}"
    return KeyDigest(Key(name, name, "default", may_log_prompts=True), secret_digest)


def _is_well_formed(secret: str) -> bool:
    return 0 < len(secret) <= _MAX_KEY_CHARS and secret.isascii()


class Keys:
    """Holds the current key ring: one writer swaps it, requests read it."""

    def __init__(
        self,
        current: KeyRing,
        on_failure: Callable[[], None] | None = None,
        failed_keys: FailedKeys | None = None,
    ) -> None:
        """Start with the keys that need not be loaded.

        Args:
            current: authenticates at once; secrets that it lacks get 503 until the first swap.
            on_failure: called for each request without a valid key.
            failed_keys: a table with other limits than the usual ones.
        """
        self.current = current
        self.is_known = False
        """False until the keys have been loaded once."""
        self.note: str | None = None
        """Why the current ring may be stale."""
        self.on_failure = on_failure
        self.failed_keys = FailedKeys() if failed_keys is None else failed_keys

    def swap(self, ring: KeyRing) -> None:
        """Replace the ring for all later requests."""
        self.current = ring
        self.is_known = True
        self.note = None
