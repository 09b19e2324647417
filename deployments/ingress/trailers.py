"""Keeps the trailers of a chunked request out of its headers.

uvicorn's parser adds both to the list that the application reads (uvicorn/protocols/http/
httptools_impl.py): a key that is only in a trailer would authenticate the request, and a trailer
`content-encoding` would break a good one. HTTP allows to ignore trailers (RFC 9110, 6.5.1).
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_ORIGINAL = HttpToolsProtocol.on_headers_complete


def ignore_trailers() -> None:
    """Let uvicorn ignore trailers in this process; calling it again changes nothing."""
    HttpToolsProtocol.on_headers_complete = _on_headers_complete  # type: ignore[assignment, method-assign]


def _on_headers_complete(protocol: HttpToolsProtocol) -> None:
    _ORIGINAL(protocol)
    protocol.headers = []  # what follows is added to a list that is not read
