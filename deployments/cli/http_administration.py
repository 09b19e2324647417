"""Administers a running service over its HTTP API."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from api.errors import ApiError, InvalidRequestError, KeyNotFoundError, UnavailableError
from api.ports.administration import NewSecret, UsageQuery, UsageRow
from api.ports.tenancy import Key, KeyLimits
from deployments.cli.times import DAY_S

_TIMEOUT_S = 30


class HttpAdministration:
    """The port `api.ports.administration.Administration` over HTTP, with an admin key."""

    def __init__(self, url: str, admin_key: str) -> None:
        """Prepare calls to the service at `url`; make them within `async with`."""
        self._root = url.rstrip("/").removesuffix("/v1")
        self._admin_key = admin_key

    async def __aenter__(self) -> "HttpAdministration":
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(
            headers={"authorization": f"Bearer {self._admin_key}"},
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection pool."""
        await self._session.close()

    async def create_key(self, fields: Mapping[str, Any]) -> NewSecret:
        """Make a key; all methods raise what the port says, and `UnavailableError`."""
        return _to_new_secret(await self._call("POST", "/v1/keys", body=_to_body(fields)))

    async def list_keys(self) -> Sequence[Key]:
        """List all keys, oldest first."""
        return [_to_key(member) for member in (await self._call("GET", "/v1/keys"))["data"]]

    async def get_key(self, id_or_name: str) -> Key:
        """Get one key."""
        return _to_key(await self._call("GET", _path(id_or_name)))

    async def change_key(self, id_or_name: str, changes: Mapping[str, Any]) -> Key:
        """Change the given fields of a key."""
        return _to_key(await self._call("POST", _path(id_or_name), body=_to_body(changes)))

    async def rotate_key(self, id_or_name: str, grace_s: float) -> NewSecret:
        """Give a key a new secret."""
        path = f"{_path(id_or_name)}/rotate"
        return _to_new_secret(await self._call("POST", path, body={"grace_s": grace_s}))

    async def delete_key(self, id_or_name: str) -> None:
        """Delete a key."""
        await self._call("DELETE", _path(id_or_name))

    async def report_usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Sum up usage; the API reports whole days only."""
        params = {
            "from": _to_day(query.from_s),
            "to": _to_day(query.to_s, days_before=1),
            "group_by": ",".join(query.group_by),
            "key": query.key_id,
            "tenant": query.tenant,
            "model": query.model,
        }
        given = {name: value for name, value in params.items() if value is not None}
        return [UsageRow(**row) for row in (await self._call("GET", "/v1/usage", given))["data"]]

    async def _call(
        self, method: str, path: str, params: dict[str, str] | None = None, body: Any = None
    ) -> dict[str, Any]:
        """Call the API and return the JSON object of the response.

        Raises:
            ApiError: the service refused the request, or cannot be reached.
        """
        try:
            url = URL(self._root + path, encoded=True)
            # No redirects: another host must not receive the admin key.
            request = self._session.request(
                method, url, params=params, json=body, allow_redirects=False
            )
            async with request as response:
                content = await response.json(content_type=None)
                status = response.status
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise UnavailableError(f"{self._root} does not answer as it should: {reason}") from None
        if not isinstance(content, dict) or 300 <= status < 400:
            raise UnavailableError(f"{self._root} does not answer as it should: status {status}")
        if status >= 400:
            raise _to_error(status, content)
        return content


def _path(id_or_name: str) -> str:
    return f"/v1/keys/{quote(id_or_name, safe='')}"


def _to_day(moment_s: float, *, days_before: int = 0) -> str:
    return datetime.fromtimestamp(moment_s - days_before * DAY_S, UTC).date().isoformat()


def _to_error(status: int, content: dict[str, Any]) -> ApiError:
    error = content.get("error")
    members = error if isinstance(error, dict) else {}
    message = str(members.get("message") or f"the service answered with status {status}")
    if members.get("code") == KeyNotFoundError.code:
        return KeyNotFoundError(message)
    return (InvalidRequestError if status < 500 else UnavailableError)(message)


def _to_body(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Convert fields of `Key` to a request body of `api.admin.key_schema`."""
    names = {"expires_at_s": "expires_at", "is_disabled": "disabled"}
    body = {names.get(name, name): value for name, value in fields.items()}
    if "scopes" in body:
        body["scopes"] = sorted(body["scopes"])
    if is_dataclass(limits := body.get("limits")) and not isinstance(limits, type):
        body["limits"] = asdict(limits)
    return body


def _to_new_secret(shown: Mapping[str, Any]) -> NewSecret:
    return NewSecret(_to_key(shown), shown["key"])


def _to_key(shown: Mapping[str, Any]) -> Key:
    """Read a key object, as `api.admin.key_schema.to_key_object` writes it."""
    return Key(
        id=shown["id"],
        name=shown["name"],
        tenant=shown["tenant"],
        models=tuple(shown["models"]),
        scopes=frozenset(shown["scopes"]),
        limits=KeyLimits(**shown["limits"]),
        priority=shown["priority"],
        may_log_prompts=shown["may_log_prompts"],
        created_at_s=shown["created_at"],
        expires_at_s=shown["expires_at"],
        is_disabled=shown["disabled"],
    )
