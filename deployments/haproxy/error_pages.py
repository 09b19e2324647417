"""What HAProxy itself answers, in the form of all other errors."""

import json
from collections.abc import Mapping
from pathlib import Path

from api.errors import (
    ApiError,
    BodyTimeoutError,
    InvalidRequestError,
    OverloadedError,
    PayloadTooLargeError,
    RateLimitError,
    RouteNotFoundError,
)

_UNREADABLE = InvalidRequestError(
    "The request is not valid HTTP, or its first line and headers are longer than 16 KB, or the "
    "client closed its side of the connection before the answer."
)
_REFUSED = InvalidRequestError("Requests of this kind are not accepted.")
_UNAVAILABLE = OverloadedError("No replica of the service can answer at the moment; try again.")

PAGES: Mapping[int, ApiError] = {
    400: _UNREADABLE,
    401: _REFUSED,
    403: _REFUSED,
    404: RouteNotFoundError("There is no such path."),
    405: _REFUSED,
    407: _REFUSED,
    408: BodyTimeoutError("The headers of the request took too long to arrive."),
    410: _REFUSED,
    413: PayloadTooLargeError("The request is too large."),
    421: _REFUSED,
    422: _REFUSED,
    425: _REFUSED,
    429: RateLimitError("There are too many requests; try again later."),
    500: _UNAVAILABLE,
    501: _REFUSED,
    502: _UNAVAILABLE,
    503: _UNAVAILABLE,
    504: _UNAVAILABLE,
}
"""Every status that HAProxy 2.8 has a page for → what is sent instead, with a status of its own."""

_REASONS = {
    400: "Bad Request",
    404: "Not Found",
    408: "Request Timeout",
    413: "Content Too Large",
    429: "Too Many Requests",
    503: "Service Unavailable",
}


def write_pages(folder: Path) -> dict[int, Path]:
    """Write one file for each status of HAProxy; returns them by status."""
    folder.mkdir(exist_ok=True)
    files = {}
    for status, error in PAGES.items():
        files[status] = folder / f"{status}.http"
        files[status].write_bytes(to_response(error))
    return files


def to_response(error: ApiError) -> bytes:
    """Return the error as the whole response that HAProxy's `errorfile` wants."""
    body = json.dumps(error.body()).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "cache-control": "no-cache",
        "connection": "close",
    }
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    lines = [f"HTTP/1.1 {error.status} {_REASONS[error.status]}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
