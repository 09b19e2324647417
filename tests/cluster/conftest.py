"""One service with fake engines for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service import Service, running

_ACTOR = {"num_cpus": 0.1}


def application(name: str, kind: str, deployment: str, **args: Any) -> dict[str, Any]:
    """One model's block of the configuration."""
    return {
        "name": name,
        "route_prefix": None,
        "import_path": f"deployments.app:{kind}",
        "args": {"id": name, "source": "fake:", **args},
        "deployments": [{"name": deployment, "ray_actor_options": _ACTOR}],
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
]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service; tests that change its applications put them back."""
    home: Path = tmp_path_factory.mktemp("home")
    with running({"applications": APPLICATIONS}, home) as service:
        yield service
