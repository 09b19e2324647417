import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from starlette.types import ASGIApp

from api.ports.tenancy import Key
from tests.helpers.fakes import SECRET, FakeAdministration, build_app, keys_of

ADMIN = Key("adm00000", "root", "ops", scopes=frozenset({"admin"}))
TIMEOUT_S = 10.0


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder that does not exist yet, and an environment that names no other place."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    for variable in ("TRIPTYCH_DATABASE_URL", "TRIPTYCH_PEPPER", "TRIPTYCH_ADMIN_KEY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "home"


@dataclass(frozen=True, slots=True)
class Running:
    """The HTTP API at a port, and the keys and usage behind it."""

    url: str
    administration: FakeAdministration


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A running service; its admin key is in the environment."""
    administration = FakeAdministration()
    server, thread = serve(build_app(keys=keys_of(ADMIN), administration=administration))
    monkeypatch.setenv("TRIPTYCH_ADMIN_KEY", SECRET)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Running(f"http://127.0.0.1:{port}", administration)
    server.should_exit = True
    thread.join(TIMEOUT_S)


class Server(uvicorn.Server):
    """A server that tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()


def serve(app: ASGIApp) -> tuple[Server, threading.Thread]:
    """Serve an application at a free port, in a thread."""
    server = Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert server.listens.wait(TIMEOUT_S), "the service did not start"
    return server, thread
