"""What every test of a model replica needs; no Ray is started."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import deployments.models.diffusion
import deployments.models.embedding
import deployments.models.llm
from deployments.models.replica import ModelReplica
from tests.helpers.cluster_store import DictStore


@pytest.fixture
def restored_logs() -> Iterator[None]:
    """Undo what `configure_logs` changes."""
    loggers = [logging.getLogger(name) for name in ("api", "deployments")]
    before = [(each, each.handlers, each.level, each.propagate) for each in loggers]
    yield
    for each, handlers, level, propagate in before:
        each.handlers, each.level, each.propagate = handlers, level, propagate


@pytest.fixture
def cluster_store(monkeypatch: pytest.MonkeyPatch) -> DictStore:
    """The store that replicas write to."""
    store = DictStore()
    monkeypatch.setattr(ModelReplica, "cluster_store", store)
    return store


@pytest.fixture
def without_ledger(
    restored_logs: None, cluster_store: DictStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Let replicas find no ledger: looking one up would start Ray."""

    async def find_none() -> None:
        return None

    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))
    monkeypatch.setattr(deployments.models.llm, "find_ledger", find_none)
    monkeypatch.setattr(deployments.models.embedding, "find_ledger", find_none)
    monkeypatch.setattr(deployments.models.diffusion, "find_ledger", find_none)
