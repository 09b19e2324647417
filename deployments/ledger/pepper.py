"""The secret that keys are digested with; without it, a copy of the digests is useless."""

import hmac
import os
import secrets
import tempfile
from pathlib import Path

from deployments.home import find_home

_VARIABLE = "TRIPTYCH_PEPPER"
_MIN_CHARS = 32


def load_pepper() -> bytes:
    """Read the pepper from the environment, else from its file, which is created if missing.

    Raises:
        ValueError: the pepper is too short.
        OSError: the file cannot be read or created.
    """
    if from_environment := os.environ.get(_VARIABLE):
        return _check(from_environment, _VARIABLE)
    path = find_home() / "pepper"
    if not path.exists():
        _create(path)
    return _check(path.read_text(encoding="utf-8"), str(path))


def _check(text: str, source: str) -> bytes:
    pepper = text.strip()  # files and mounted secrets end with a newline
    if len(pepper) < _MIN_CHARS:
        raise ValueError(f"{source}: at least {_MIN_CHARS} characters are needed")
    return pepper.encode()


def _create(path: Path) -> None:
    """Create the file atomically: of several processes one wins, and all read its file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=".pepper-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            os.fchmod(descriptor, 0o400)
            file.flush()
            os.fsync(descriptor)
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first
    finally:
        os.unlink(draft)


def to_pepper_fingerprint(pepper: bytes) -> bytes:
    """A value that processes may exchange to find out whether their peppers are the same."""
    return hmac.digest(pepper, b"the same pepper", "sha256")[:8]


def to_cache_salt(pepper: bytes, tenant: str) -> str:
    """The salt that separates a tenant's cached prefixes; other tenants cannot compute it."""
    return hmac.digest(pepper, b"cache salt of " + tenant.encode(), "sha256").hex()
