"""The service with the demo models, for `clients` and `e2e`; which tests run, in which order."""

from collections.abc import Iterator

import pytest
import yaml
from hypothesis import settings

from deployments.home import find_home
from tests.helpers.service import ROOT, Service, running

# How long a generated example takes says how busy the machine is.
settings.register_profile("triptych", deadline=None)
settings.load_profile("triptych")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag that `scripts/test --clients` sets, and the time of the fuzz tests."""
    parser.addoption(
        "--clients",
        action="store_true",
        help="also run the client tests with libraries other than OpenAI's",
    )
    parser.addoption(
        "--fuzz-seconds",
        type=float,
        metavar="S",
        help="run tests/fuzz for so long with new examples, instead of a few that are always the "
        "same",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the client tests without `--clients`; run the tests with the demo models last.

    Once started, the models run until the end; other tests beside them would be short of memory
    and time.
    """
    if not config.getoption("--clients"):
        deselected = [item for item in items if item.get_closest_marker("clients")]
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if not item.get_closest_marker("clients")]
    items.sort(key=lambda item: item.get_closest_marker("e2e") is not None)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The shipped configuration, started like the README does; its home links to the models."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").symlink_to(find_home() / "models")
    with running(yaml.safe_load((ROOT / "serve_config.yaml").read_text()), home) as service:
        yield service
