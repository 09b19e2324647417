"""Reads one streamed chat completion from a socket: HTTP/1.1 framing, then server-sent events.

It does only what a load generator needs, because it shares the cores with the measured server:
content chunks are counted by pattern, and JSON is parsed only if the text is checked.
"""

import json
import re
from dataclasses import dataclass, field

# A quote inside JSON text is escaped, so this matches the member only. Empty content is no chunk.
CONTENT = re.compile(rb'"content":\s*"(?!")')
COMPLETION_TOKENS = re.compile(rb'"completion_tokens":\s*(\d+)')


class Response:
    """An HTTP response: takes bytes, returns the bytes of its body."""

    def __init__(self) -> None:
        """Start before the status line."""
        self.status = 0
        self.is_done = False
        self.keeps_alive = True
        self._length: int | None = None  # None: chunked
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take received bytes; return what they add to the body."""
        self._rest = self._rest + data if self._rest else data
        if not self.status and not self._read_head():
            return b""
        return self._read_chunks() if self._length is None else self._read_length()

    def _read_head(self) -> bool:
        end = self._rest.find(b"\r\n\r\n")
        if end < 0:
            return False
        head, self._rest = self._rest[:end].lower(), self._rest[end + 4 :]
        self.status = int(head.split(None, 2)[1])
        self.keeps_alive = b"\r\nconnection: close" not in head
        if length := re.search(rb"\r\ncontent-length: *(\d+)", head):
            self._length = int(length[1])
        elif b"\r\ntransfer-encoding: chunked" not in head:
            raise ValueError("neither content-length nor chunked")
        return True

    def _read_length(self) -> bytes:
        body, self._rest, self._length = self._rest, b"", (self._length or 0) - len(self._rest)
        self.is_done = self._length <= 0
        return body

    def _read_chunks(self) -> bytes:
        """Return whole chunks only; a chunk in two reads is returned with the second."""
        rest, at, pieces = self._rest, 0, []
        while (line_end := rest.find(b"\r\n", at)) >= 0:
            size = int(rest[at:line_end].split(b";")[0], 16)
            start = line_end + 2
            if len(rest) < start + size + 2:
                break
            at = start + size + 2
            if not size:
                self.is_done = True
                break
            pieces.append(rest[start : start + size])
        self._rest = rest[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@dataclass(slots=True)
class Stream:
    """The measurements of one stream; times are seconds of one clock."""

    prompt: str = ""
    reads_text: bool = False
    asked_at: float = 0.0
    last_at: float = 0.0
    ttft_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    chunks: int = 0
    tokens: int | None = None
    usage: dict[str, int] = field(default_factory=dict)
    text: str = ""
    has_done: bool = False
    error: str = ""
    _rest: bytes = b""

    def feed(self, body: bytes, now: float) -> None:
        """Take a piece of the body, received at `now`."""
        body = self._rest + body if self._rest else body
        end = body.rfind(b"\n\n") + 2
        if end == 1:  # no event is complete
            self._rest = body
            return
        events, self._rest = body[:end], body[end:]
        if count := len(CONTENT.findall(events)):
            self._count_content(count, now)
        if found := COMPLETION_TOKENS.findall(events):
            self.tokens = int(found[-1])
        if b"data: [DONE]" in events:
            self.has_done = True
        if b'data: {"error"' in events:
            self.error = events[:300].decode(errors="replace")
        if self.reads_text:
            self._read_text(events)

    def _count_content(self, count: int, now: float) -> None:
        if self.ttft_s is None:
            self.ttft_s = now - self.asked_at
        else:
            self.gaps_s.append(now - self.last_at)
        self.last_at = now
        self.chunks += count

    def _read_text(self, events: bytes) -> None:
        for event in events.split(b"\n\n"):
            if not event.startswith(b"data: {"):
                continue
            chunk = json.loads(event[6:])
            self.usage = chunk.get("usage") or self.usage
            for choice in chunk.get("choices") or ():
                self.text += choice["delta"].get("content") or ""

    def conclude(self, max_tokens: int | None) -> None:
        """Set `error` if the ended stream is wrong.

        Args:
            max_tokens: How many tokens it must have; None if the model may end earlier.
        """
        if self.error:
            return
        if not self.has_done:
            self.error = "ended without [DONE]"
        elif self.tokens is None:
            self.error = "ended without usage"
        elif max_tokens not in (None, self.tokens):
            self.error = f"{self.tokens} tokens of usage instead of {max_tokens}"
        elif self.reads_text:
            words = len(self.prompt.split())
            if self.text != self.prompt:
                self.error = f"not the text of the prompt but {self.text[:100]!r}"
            elif self.usage.get("prompt_tokens") != words:
                self.error = f"usage {self.usage} instead of {words} prompt tokens"
