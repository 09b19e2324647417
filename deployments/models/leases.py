"""The replica's end of leases: Serve calls that each serve one request after the other.

A Serve call costs the caller and the replica a millisecond each, more than all else that a short
request needs. So its call stays open when a request is answered, and the next request of the same
ingress replica goes to it as one message. Each running request still has a Serve call of its own:
what Serve counts, routes, drains and cancels stays true. An error ends the lease as the error of
the call, and so does a result that is too large for the channel, as the result of the call.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import ray

from api.errors import EngineError, InvalidRequestError
from deployments.transport.request_channel import LeasedRequest, RequestReceiver
from deployments.transport.token_channel import Sender, StreamWriter
from deployments.transport.token_messages import ReplyTo, StreamEnd

Method = Callable[[Any, StreamWriter], Awaitable[Any]]
"""Answers one request within `with writer`; may send deltas."""

_MAX_RESULT_BYTES = 1024 * 1024
"""Below the channel's limit of a message by so much that others' deltas need not wait."""

_MAX_ANSWER_BYTES = 120 * 1024 * 1024
"""Below `RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH`: a larger one would be lost on its way."""

_encoder = msgspec.msgpack.Encoder()


class Leases:
    """The leases of one replica, and both channels to the ingress replicas."""

    def __init__(
        self,
        methods: Mapping[str, tuple[type, Method]],
        find_host: Callable[[], str] = ray.util.get_node_ip_address,
        max_result_bytes: int = _MAX_RESULT_BYTES,
        max_answer_bytes: int = _MAX_ANSWER_BYTES,
    ) -> None:
        """Start without leases, on the running event loop.

        Args:
            methods: by name, the type of the request and the function that answers it.
            find_host: returns this node's address.
            max_result_bytes: a larger result ends its lease.
            max_answer_bytes: a larger result is refused.
        """
        self._methods: dict[str, tuple[msgspec.msgpack.Decoder[Any], Method]] = {
            name: (msgspec.msgpack.Decoder(request), answer)
            for name, (request, answer) in methods.items()
        }
        self._max_result_bytes = max_result_bytes
        self._max_answer_bytes = max_answer_bytes
        self._sender = Sender()
        self._receiver = RequestReceiver(find_host)

    def stats(self) -> dict[str, int]:
        """Count the running requests, the idle leases and the connected ingress replicas."""
        idle = len(self._receiver)
        return {
            "streams": self._sender.writers - idle,
            "leases": idle,
            "sockets": self._sender.peers,
        }

    async def serve(
        self, lease_id: bytes, method: str, request: Any, reply_to: ReplyTo
    ) -> StreamEnd[Any] | None:
        """Answer the first request and those that follow, until the lease is closed.

        Returns:
            The result of the last request if it was too large for the channel, else None.

        Raises:
            ApiError: the last request failed, or its ingress replica was lost.
        """
        try:
            while True:
                writer = self._sender.open(reply_to)
                result = await self._methods[method][1](request, writer)
                encoded = _encoder.encode(result)
                self._check_size(encoded)
                address = self._receiver.find_address(reply_to)
                if len(encoded) > self._max_result_bytes or address is None:
                    return StreamEnd(result, writer.sent)
                following = self._receiver.expect(lease_id)  # before it can arrive
                with writer:
                    writer.send_end(encoded, address)
                    leased = await following
                if leased is None:
                    return None
                method, reply_to = leased.method, leased.reply_to
                request = self._decode(leased)
        finally:
            self._receiver.forget(lease_id)

    def _check_size(self, encoded: bytes) -> None:
        if len(encoded) > self._max_answer_bytes:
            raise InvalidRequestError(
                f"The answer would have {len(encoded)} bytes, and the most is "
                f"{self._max_answer_bytes}; ask for fewer or smaller results."
            )

    def _decode(self, leased: LeasedRequest) -> Any:
        try:
            return self._methods[leased.method][0].decode(leased.request)
        except (KeyError, msgspec.DecodeError) as error:  # the ingress has another version
            raise EngineError("The model failed to answer this request.") from error

    def shut_down(self) -> None:
        """Close all sockets; blocks for a moment while pending messages are sent."""
        self._receiver.shut_down()
        self._sender.shut_down()
