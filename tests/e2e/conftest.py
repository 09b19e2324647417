"""The shipped configuration with the demo models, for all tests of this folder."""

from collections.abc import Iterator

import pytest
import yaml

from deployments.config import find_home
from tests.service import ROOT, Service, running


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service as the README starts it, in a home of its own that shares the models."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").symlink_to(find_home() / "models")
    with running(yaml.safe_load((ROOT / "serve_config.yaml").read_text()), home) as service:
        yield service
