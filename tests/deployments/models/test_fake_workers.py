"""Workers that run are tested on a cluster, in tests/cluster/test_nodes.py."""

from types import SimpleNamespace
from typing import Any

import pytest

from deployments.engines.sources import EngineStartError
from deployments.models import fake_workers


@pytest.mark.parametrize(
    "group",
    [None, SimpleNamespace(bundle_specs=[{"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}])],
)
def test_more_workers_than_bundles_with_a_gpu_cannot_start(
    group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_workers, "get_current_placement_group", lambda: group)

    with pytest.raises(EngineStartError, match="2 need as many bundles"):
        fake_workers.FakeWorkers(2)
