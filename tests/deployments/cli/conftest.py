import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from starlette.types import ASGIApp

from api.ports.tenancy import Key
from tests.helpers.fakes import SECRET, FakeAdministration, build_app, keys_of

ADMIN = Key("adm00000", "root", "ops", scopes=frozenset({"admin"}))
PATIENCE_S = 10.0


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One that is not there yet, and an environment that points nowhere else."""
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    for variable in ("TRIPTYCH_DATABASE_URL", "TRIPTYCH_PEPPER", "TRIPTYCH_ADMIN_KEY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "home"


@dataclass(frozen=True, slots=True)
class Running:
    """The real HTTP face at a port, and the keys and usage behind it."""

    url: str
    administration: FakeAdministration


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """One whose admin key is in the environment."""
    administration = FakeAdministration()
    server, thread = serve(build_app(keys=keys_of(ADMIN), administration=administration))
    monkeypatch.setenv("TRIPTYCH_ADMIN_KEY", SECRET)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Running(f"http://127.0.0.1:{port}", administration)
    server.should_exit = True
    thread.join(PATIENCE_S)


def serve(app: ASGIApp) -> tuple[uvicorn.Server, threading.Thread]:
    """Answer at a free port, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline_s = time.monotonic() + PATIENCE_S
    while not server.started:
        assert time.monotonic() < deadline_s, "the service did not start"
        time.sleep(0.01)
    return server, thread
