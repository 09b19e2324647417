"""What runs the tours: Node with its packages, and Python with its own."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.tours import HERE, Secrets, Tour, set_up
from tests.helpers.service import Service
from tests.helpers.tenants import make_key


@pytest.fixture(scope="session")
def secrets(service: Service) -> Secrets:
    """A key that may only chat, and one that may have one picture a minute and few tokens."""
    with ThreadPoolExecutor() as makers:  # each takes seconds until all replicas know it
        chat = makers.submit(make_key, service, "tour-chat", "--scope", "chat")
        small = makers.submit(make_key, service, "tour-small", "--ipm", "1", "--tpm", "2")
        return {"CHAT_KEY": chat.result(), "SMALL_KEY": small.result()}


@pytest.fixture(scope="session")
def node_tour(service: Service, secrets: Secrets) -> Callable[[str], Tour]:
    """Takes the tour of a script in `node/`."""
    folder = set_up("node") / "node"
    for script in (HERE / "node").glob("*.mjs"):
        shutil.copy(script, folder)  # Node looks for a module's packages beside the module alone
    return lambda name: Tour(["node", folder / name], service, secrets)


@pytest.fixture(scope="session")
def python_tour(service: Service) -> Callable[[str], Tour]:
    """Takes the tour of a script in this folder, in the tours' own virtual environment."""
    python: Path = set_up("clients") / "venv" / "bin" / "python"
    return lambda name: Tour([python, HERE / name], service)
