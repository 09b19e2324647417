"""`GET /v1/images/files/{name}`: images whose names are secrets, for as long as they are kept."""

import re
from typing import Protocol

from starlette.datastructures import URL
from starlette.types import Receive, Scope, Send

from api.backends import PictureFormat
from api.errors import RouteNotFound

PUBLIC_PATH = re.compile(r"/v1/images/files/[A-Za-z0-9_-]{22}\.(?:png|webp|jpeg)")
"""Whoever knows such a path may fetch it: browsers send no keys."""


class ImageStore(Protocol):
    """Keeps images for a while, under names that nobody can guess."""

    @property
    def base_url(self) -> str | None:
        """What URLs begin with; None is the request's own host."""

    async def keep(self, data: bytes, format: PictureFormat) -> str:
        """Store a file; gives its name, 128 random bits and the format's ending."""

    async def find(self, name: str) -> bytes | None:
        """The file of that name, if it is still there."""


class ImageFile:
    """The endpoint."""

    def __init__(self, store: ImageStore) -> None:
        """Serve what `store` keeps."""
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            RouteNotFound: there is no such file, or no more.
        """
        name: str = scope["path_params"]["name"]
        data = None
        if PUBLIC_PATH.fullmatch(scope["path"]):
            data = await self._store.find(name)
        if data is None:
            raise RouteNotFound("There is no such image; images are kept for a while only.")
        headers = [
            (b"content-type", f"image/{name.rpartition('.')[2]}".encode()),
            (b"content-length", str(len(data)).encode()),
            (b"cache-control", b"private, no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})


def to_base_url(scope: Scope, store: ImageStore | None) -> str:
    """What the URLs of an answer begin with."""
    if store is not None and store.base_url is not None:
        return store.base_url.rstrip("/")
    url = URL(scope=scope)
    return f"{url.scheme}://{url.netloc}"
