"""The clocks of a pod that ends: a stream's own is the shortest, what kills it the longest."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.config.ingress import IngressArgs
from deployments.config.stream_deadlines import DRAINING_S, HARD_STOP_VARIABLE
from deployments.ingress.replica import Ingress
from deployments.models.diffusion import Diffusion
from deployments.models.llm import LLM
from tests.helpers.kustomize import Manifest, find, find_templates, render

OVERLAYS = Path(__file__).resolve().parents[3] / "deployments" / "kuberay" / "overlays"
DRAIN_VARIABLE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
STREAMING = {each.name: each for each in (Ingress, LLM, Diffusion)}


def find_clock_problems(manifests: list[Manifest]) -> Iterator[str]:
    """Yield each pair of clocks, in seconds, of which the first must not be the longer one."""
    spec = find(manifests, "RayService")["spec"]
    environment = {
        **find(manifests, "ConfigMap", "triptych-serving-environment")["data"],
        **find(manifests, "ConfigMap", "triptych-pod-environment")["data"],
    }
    applications = yaml.safe_load(spec["serveConfigV2"])["applications"]
    timeout_s = max(
        IngressArgs.model_validate(each["args"]).limits.request_timeout_s
        for each in applications
        if each["import_path"] == "deployments.app:ingress"
    )
    drain_s, hard_stop_s = (
        float(environment[DRAIN_VARIABLE]),
        float(environment[HARD_STOP_VARIABLE]),
    )
    for deployment in [each for application in applications for each in application["deployments"]]:
        if deployment["name"] in STREAMING:
            graceful_s = find_graceful_shutdown_s(deployment)
            if not timeout_s < graceful_s < drain_s:
                yield f"{deployment['name']}: {timeout_s} < {graceful_s} < {drain_s}"
    for template in find_templates(spec):
        grace_s = template["spec"].get("terminationGracePeriodSeconds", 30)
        if not drain_s < grace_s:
            yield f"termination: {drain_s} < {grace_s}"
    if not timeout_s + DRAINING_S <= hard_stop_s:
        yield f"HAProxy: {timeout_s} + {DRAINING_S} <= {hard_stop_s}"
    deletion_s = spec["rayClusterDeletionDelaySeconds"]
    if not hard_stop_s <= deletion_s:
        yield f"deletion: {hard_stop_s} <= {deletion_s}"


def find_graceful_shutdown_s(deployment: Any) -> float:
    """Find how long a replica may finish its requests: as configured, else as in the code."""
    in_code = STREAMING[deployment["name"]]._deployment_config.graceful_shutdown_timeout_s
    return float(deployment.get("graceful_shutdown_timeout_s", in_code))


@pytest.fixture
def manifests() -> list[Manifest]:
    return render(OVERLAYS / "gpu")


@pytest.mark.parametrize("overlay", ["cpu-demo", "gpu", "incremental-upgrade"])
def test_clocks_of_an_overlay_agree(overlay: str) -> None:
    assert list(find_clock_problems(render(OVERLAYS / overlay))) == []


def test_three_kinds_of_replicas_are_compared(manifests: list[Manifest]) -> None:
    find(manifests, "ConfigMap", "triptych-pod-environment")["data"][DRAIN_VARIABLE] = "650"

    problems = list(find_clock_problems(manifests))

    assert [each.partition(":")[0] for each in problems] == ["Ingress", "LLM", "Diffusion"]


def test_pods_that_are_killed_too_early_are_found(manifests: list[Manifest]) -> None:
    for template in find_templates(find(manifests, "RayService")):
        del template["spec"]["terminationGracePeriodSeconds"]  # Kubernetes' default is 30

    assert list(find_clock_problems(manifests)) == ["termination: 690.0 < 30"] * 3


def test_longer_requests_need_longer_clocks(manifests: list[Manifest]) -> None:
    spec = find(manifests, "RayService")["spec"]
    config = yaml.safe_load(spec["serveConfigV2"])
    config["applications"][0]["args"] = {"limits": {"request_timeout_s": 700}}
    spec["serveConfigV2"] = yaml.safe_dump(config)

    assert "HAProxy: 700.0 + 60 <= 720.0" in list(find_clock_problems(manifests))


def test_cluster_that_is_deleted_too_early_is_found(manifests: list[Manifest]) -> None:
    find(manifests, "RayService")["spec"]["rayClusterDeletionDelaySeconds"] = 60

    assert list(find_clock_problems(manifests)) == ["deletion: 720.0 <= 60"]
