"""`GET /v1/images/files/{name}`: images whose names are secrets, for as long as they are kept."""

import re

from starlette.types import Receive, Scope, Send

from api.errors import RouteNotFoundError
from api.ports.images import ImageStore

PUBLIC_PATH = re.compile(r"/v1/images/files/[A-Za-z0-9_-]{22}\.(?:png|webp|jpeg)")
"""Whoever knows such a path may fetch it: browsers send no keys."""


class ImageFile:
    """The endpoint."""

    def __init__(self, store: ImageStore) -> None:
        """Serve what `store` keeps."""
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            RouteNotFoundError: there is no such file, or no more.
        """
        name: str = scope["path_params"]["name"]
        data = None
        if PUBLIC_PATH.fullmatch(scope["path"]):
            data = await self._store.find(name)
        if data is None:
            raise RouteNotFoundError("There is no such image; images are kept for a while only.")
        headers = [
            (b"content-type", f"image/{name.rpartition('.')[2]}".encode()),
            (b"content-length", str(len(data)).encode()),
            (b"cache-control", b"private, no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})
