"""What runs the tours: Node with its packages, and Python with its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.tours import HERE, Tour, set_up
from tests.service import Service


@pytest.fixture(scope="session")
def node_tour(service: Service) -> Callable[[str], Tour]:
    """Takes the tour of a script in `node/`."""
    folder = set_up("node") / "node"
    for script in (HERE / "node").glob("*.mjs"):
        shutil.copy(script, folder)  # Node looks for a module's packages beside the module alone
    return lambda name: Tour(["node", folder / name], service)


@pytest.fixture(scope="session")
def python_tour(service: Service) -> Callable[[str], Tour]:
    """Takes the tour of a script in this folder, in the tours' own virtual environment."""
    python: Path = set_up("clients") / "venv" / "bin" / "python"
    return lambda name: Tour([python, HERE / name], service)
