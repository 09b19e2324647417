"""The messages of the token channel, from a model's replica to an ingress replica.

Each message is a list of items, as MessagePack.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from api.ports.stream import ImageProgress, TextDelta


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the deltas of one request go."""

    address: str
    stream_id: bytes


class TextItem(msgspec.Struct, array_like=True, gc=False, tag=0):
    """One text delta on the wire; `number` counts the deltas of one stream from 0."""

    stream_id: bytes
    number: int
    delta: TextDelta


class ImageItem(msgspec.Struct, array_like=True, gc=False, tag=1):
    """The progress of one image on the wire; `number` as in `TextItem`."""

    stream_id: bytes
    number: int
    delta: ImageProgress


class LeasedResult(msgspec.Struct, array_like=True, gc=False, tag=2):
    """The result of a request of a lease, as on the wire: it comes after the request's deltas."""

    stream_id: bytes
    deltas_sent: int
    result: bytes
    """As MessagePack."""
    inbox: str
    """Address for the lease's next request."""


class WaitingItem(msgspec.Struct, array_like=True, gc=False, tag=3):
    """Whether a request waits for its turn in the replica; not sent if it never had to."""

    stream_id: bytes
    is_waiting: bool


Item = TextItem | ImageItem | LeasedResult | WaitingItem

StreamDelta = TextDelta | ImageProgress
"""What streams: language models send the first, image models the second."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class StreamEnd(Generic[Result]):
    """The result of a streaming call."""

    completion: Result
    deltas_sent: int
