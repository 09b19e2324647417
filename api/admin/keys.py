"""`/v1/keys`: administration of all keys, for keys with the scope `admin`."""

from typing import TypeVar

from starlette.types import Receive, Scope, Send

from api.admin.key_schema import KeyChanges, KeyFields, Rotation, to_key_object, to_new_key_object
from api.http.body import read_json_body
from api.http.parsing import read_request
from api.http.response import send_json
from api.middleware.auth import get_key_for
from api.ports.administration import Administration
from api.schema.common import Request
from api.services import Services
from api.settings import Limits

Body = TypeVar("Body", bound=Request)


class AllKeys:
    """`GET /v1/keys` lists all keys, `POST` creates one; only its response shows the secret."""

    def __init__(self, administration: Administration, services: Services) -> None:
        """Administer the keys of `administration`."""
        self._administration = administration
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        get_key_for(scope, "admin")
        if scope["method"] == "POST":
            fields = await _read(KeyFields, scope, receive, self._services.limits)
            new = await self._administration.create_key(fields.to_fields())
            await send_json(send, to_new_key_object(new))
        else:
            keys = await self._administration.list_keys()
            await send_json(send, {"object": "list", "data": [to_key_object(key) for key in keys]})


class OneKey:
    """`GET /v1/keys/{id}` shows a key, `POST` changes it, `DELETE` deletes it."""

    def __init__(self, administration: Administration, services: Services) -> None:
        """Administer the keys of `administration`."""
        self._administration = administration
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        get_key_for(scope, "admin")
        key = await self._administration.get_key(scope["path_params"]["key_id"])
        if scope["method"] == "DELETE":
            await self._administration.delete_key(key.id)
            await send_json(send, {"object": "key", "id": key.id, "deleted": True})
            return
        if scope["method"] == "POST":
            changes = await _read(KeyChanges, scope, receive, self._services.limits)
            key = await self._administration.change_key(key.id, changes.to_fields())
        await send_json(send, to_key_object(key))


class RotateKey:
    """`POST /v1/keys/{id}/rotate` gives a key a new secret; only its response shows it."""

    def __init__(self, administration: Administration, services: Services) -> None:
        """Administer the keys of `administration`."""
        self._administration = administration
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        get_key_for(scope, "admin")
        rotation = await _read(Rotation, scope, receive, self._services.limits)
        key_id = scope["path_params"]["key_id"]
        new = await self._administration.rotate_key(key_id, rotation.grace_s)
        await send_json(send, to_new_key_object(new))


async def _read(body: type[Body], scope: Scope, receive: Receive, limits: Limits) -> Body:
    return read_request(await read_json_body(scope, receive, limits), body).request
