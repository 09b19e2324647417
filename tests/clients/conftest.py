"""Fixtures that run the client programs: with Node's packages, and in a Python environment."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.client_programs import PROGRAMS, ClientRun, Secrets, set_up
from tests.helpers.service import Service
from tests.helpers.tenants import make_key


@pytest.fixture(scope="session")
def secrets(service: Service) -> Secrets:
    """A key limited to chat, and a key limited to one image and two tokens a minute."""
    with ThreadPoolExecutor() as makers:  # each takes seconds until all replicas accept the key
        chat = makers.submit(make_key, service, "client-chat", "--scope", "chat")
        small = makers.submit(make_key, service, "client-small", "--ipm", "1", "--tpm", "2")
        return {"CHAT_KEY": chat.result(), "SMALL_KEY": small.result()}


@pytest.fixture(scope="session")
def run_node(service: Service, secrets: Secrets) -> Callable[[str], ClientRun]:
    """Runs a program of the folder `node`."""
    folder = set_up("node") / "node"
    for program in (PROGRAMS / "node").glob("*.mjs"):
        shutil.copy(program, folder)  # Node finds packages only from the folder of the module
    return lambda name: ClientRun(["node", folder / name], service, secrets)


@pytest.fixture(scope="session")
def run_python(service: Service) -> Callable[[str], ClientRun]:
    """Runs a program of the folder `python`, in the virtual environment of these clients."""
    python: Path = set_up("clients") / "venv" / "bin" / "python"
    return lambda name: ClientRun([python, PROGRAMS / "python" / name], service)
