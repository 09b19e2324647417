"""The time that a client waits for an answer, as its request says.

OpenAI's SDKs send their own timeout with each request (openai-python: `x-stainless-read-timeout`,
openai-node: `x-stainless-timeout`). It bounds the time until the first byte: that of a whole
answer, but not of a stream. A client behind a proxy that keeps the connection open is not seen to
have gone, so without this its work would go on.
"""

import math

from starlette.datastructures import Headers

from api.errors import InvalidRequestError

HEADER = "x-request-timeout"
"""Ours: seconds until the end of the answer, streamed or not."""

_SDK_HEADERS = ("x-stainless-read-timeout", "x-stainless-timeout")

_GRACE_S = 1.0
"""The SDK's own timeout comes first, so that it raises its own error."""


def find_timeout_s(headers: Headers, most_s: float, *, is_streamed: bool) -> float:
    """Return the seconds that a model may take for a request.

    Args:
        headers: the request's headers.
        most_s: the service's own limit, which a client can only lower.
        is_streamed: whether the answer is a stream.

    Raises:
        InvalidRequestError: the header `x-request-timeout` is not a number of seconds.
    """
    timeouts_s = [most_s]
    if (text := headers.get(HEADER)) is not None:
        if (timeout_s := _to_seconds(text)) is None:
            raise InvalidRequestError(
                f"The header '{HEADER}' must be a number of seconds above 0.", param=HEADER
            )
        timeouts_s.append(timeout_s)
    if not is_streamed:
        offered = [_to_seconds(headers[name]) for name in _SDK_HEADERS if name in headers]
        timeouts_s += [timeout_s + _GRACE_S for timeout_s in offered if timeout_s is not None]
    return min(timeouts_s)


def _to_seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None
