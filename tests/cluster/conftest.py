"""One service with fake engines, shared by the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.service import Service, running

_ACTOR = {"num_cpus": 0.1}


def application(name: str, kind: str, deployment: str, **args: Any) -> dict[str, Any]:
    """The configuration of one model's application."""
    return {
        "name": name,
        "route_prefix": None,
        "import_path": f"deployments.app:{kind}",
        "args": {"id": name, "source": "fake:", **args},
        "deployments": [{"name": deployment, "ray_actor_options": _ACTOR}],
    }


LEDGER = {
    "name": "ledger",
    "route_prefix": None,
    "import_path": "deployments.app:ledger",
    "args": {},
    "deployments": [{"name": "Ledger", "ray_actor_options": _ACTOR}],
}

APPLICATIONS = [
    {
        "name": "ingress",
        "route_prefix": "/",
        "import_path": "deployments.app:ingress",
        "args": {"limits": {"max_body_bytes": 100_000}, "poll_interval_s": 1},
        "deployments": [{"name": "Ingress", "ray_actor_options": _ACTOR}],
    },
    application("echo", "llm", "LLM", engine={"tokens_per_s": 20}),
    application("breaks", "llm", "LLM", engine={"fail_after_tokens": 3}),
    application("fails-at-once", "llm", "LLM", engine={"fail_after_tokens": 0}),
    application("vectors", "embedding", "Embedding"),
    application("colours", "diffusion", "Diffusion"),
    application("missing", "llm", "LLM", source="/no/such/folder"),
    LEDGER,
]


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service; tests that change its applications restore them, and `test_stop.py` ends it."""
    home: Path = tmp_path_factory.mktemp("home")
    with running({"applications": APPLICATIONS}, home, "--drain", "2") as service:
        yield service


@pytest.fixture(scope="package")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Three ingress replicas, a ledger, and models slow enough to be interrupted.

    The modules that use it come one after the other; each makes keys of its own.
    """
    home: Path = tmp_path_factory.mktemp("fleet")
    ingress = {
        **APPLICATIONS[0],
        "deployments": [{"name": "Ingress", "num_replicas": 3, "ray_actor_options": _ACTOR}],
    }
    echo = application("echo", "llm", "LLM", engine={"tokens_per_s": 50})
    echo["deployments"][0]["num_replicas"] = 2
    narrow = application("narrow", "llm", "LLM", engine={"tokens_per_s": 50, "max_num_seqs": 8})
    vectors = application("vectors", "embedding", "Embedding")
    colours = application("colours", "diffusion", "Diffusion")
    config = {"applications": [ingress, echo, narrow, vectors, colours, LEDGER]}
    with running(config, home) as service:
        yield service
