"""`GET /v1/images/files/{name}`: stored images; no key is needed, because names are secret."""

import re

from starlette.types import Receive, Scope, Send

from api.errors import RouteNotFoundError
from api.ports.images import ImageStore

PUBLIC_PATH = re.compile(r"/v1/images/files/[A-Za-z0-9_-]{22}\.(?:png|webp|jpeg)")
"""Paths that need no key, because browsers send none; 128 random bits cannot be guessed."""


class ImageFile:
    """Serves one stored image."""

    def __init__(self, store: ImageStore) -> None:
        """Serve the images in `store`."""
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            RouteNotFoundError: the file does not exist, or has expired.
        """
        name: str = scope["path_params"]["name"]
        data = None
        if PUBLIC_PATH.fullmatch(scope["path"]):
            data = await self._store.find(name)
        if data is None:
            raise RouteNotFoundError(
                "This image does not exist; images are kept for a limited time."
            )
        headers = [
            (b"content-type", f"image/{name.rpartition('.')[2]}".encode()),
            (b"content-length", str(len(data)).encode()),
            (b"cache-control", b"private, no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})
