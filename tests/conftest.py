"""The demo models' service, which two folders share, and which tests run, in which order."""

from collections.abc import Iterator

import pytest
import yaml

from deployments.home import find_home
from tests.helpers.service import ROOT, Service, running


def pytest_addoption(parser: pytest.Parser) -> None:
    """The flag of `scripts/test --clients`."""
    parser.addoption(
        "--clients", action="store_true", help="also the tours with others' clients than OpenAI's"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tours nobody asked for; let the demo models, once started, run to the end.

    Beside them, tests of other folders would find memory and time short.
    """
    if not config.getoption("--clients"):
        left_out = [item for item in items if item.get_closest_marker("clients")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("clients")]
    items.sort(key=lambda item: item.get_closest_marker("e2e") is not None)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The shipped configuration as the README starts it, in a home that shares the models."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").symlink_to(find_home() / "models")
    with running(yaml.safe_load((ROOT / "serve_config.yaml").read_text()), home) as service:
        yield service
