"""CurveZMQ between nodes: encryption, and proof that the other end was told this one's key."""

import zmq


def make_curve_server(socket: "zmq.Socket[bytes]") -> str:
    """Let a socket use a new key pair for what it binds from now on; returns the public key."""
    public, secret = zmq.curve_keypair()
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    return public.decode()


def make_curve_client(socket: "zmq.Socket[bytes]", server_key: bytes) -> None:
    """Let a socket use a new key pair for connections to the server with a public key."""
    public, secret = zmq.curve_keypair()
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)
