"""Validation errors as lines for operators: the path of the key, and what is wrong with it."""

from collections.abc import Iterator

from pydantic import ValidationError


def to_lines(error: ValidationError, path: str = "") -> Iterator[str]:
    """Yield a line for each mistake; `path` is where the validated value stands."""
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        where = f"{path}{_to_path(detail['loc'])}".removesuffix(".")
        yield f"{where}: {_to_reason(detail['type'], detail['msg'])}"


def _to_path(location: tuple[int | str, ...]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).removeprefix(".")


def _to_reason(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "there is no such key"
    if kind == "missing":
        return "is missing"
    reason = message.removeprefix("Value error, ").splitlines()[0]
    return reason[:1].lower() + reason[1:]
