import socket
import threading

from scripts.benchmark.hostile.peers import Target, to_peers


def test_unknown_keys_are_counted_by_the_status_that_they_got() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=refuse_all, args=(server,), daemon=True).start()

        said = to_peers(Target(server.getsockname()[1], 0))["2,000 unknown keys"]()

        server.shutdown(socket.SHUT_RDWR)
    assert said == "2,000 × 401"


def refuse_all(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # the test has closed it
            return
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
