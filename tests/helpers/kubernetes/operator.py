"""What KubeRay 1.7 makes of a RayService: pods, their commands, environment and probes.

Followed line by line in the operator's source, tag v1.7.0: ray-operator/controllers/ray/common/
pod.go (environment, `ray start`, probes), utils/dashboardclient/dashboard_httpclient.go (deploys).
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from scripts.service.environment import haproxy_binary
from tests.helpers.kubernetes.pods import ROOT, Network, Pod
from tests.helpers.kustomize import Manifest, find
from tests.helpers.service import wait_until

GCS_PORT, DASHBOARD_PORT, SERVE_PORT = 6379, 8265, 8000
PROBE_PERIOD_S = 5
_MEBIBYTES = {"Gi": 1024, "Mi": 1}
_WGET = "wget --tries 1 -T {timeout_s} -q -O- http://localhost:{port}/{path} | grep success"
_RAYLET = _WGET.format(timeout_s=2, port=52365, path="api/local_raylet_healthz")
_PROXY = _WGET.format(timeout_s=10, port=SERVE_PORT, path="-/healthz")
_WORKER_PROBE, _WORKER_PROBE_TIMEOUT_S = f"{_RAYLET} && {_PROXY}", 2
_HEAD_PROBE = "wget --tries 1 -T 5 -q -O- http://localhost:52365/api/healthz"
_HEAD_PROBE_TIMEOUT_S = 5

_OF_A_RAY_SERVICE = {
    "RAY_timeout_ms_task_wait_for_death_info": "0",
    "RAY_gcs_server_request_timeout_seconds": "5",
    "RAY_SERVE_KV_TIMEOUT_S": "5",
    "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
    "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1",
}


class RayCluster:
    """The pods of one RayCluster of a RayService."""

    def __init__(
        self,
        name: str,
        manifests: list[Manifest],
        secrets: Mapping[str, Mapping[str, str]],
        network: Network,
        folder: Path,
    ) -> None:
        """Start nothing yet.

        Args:
            name: of the cluster; also names what it stores in Redis.
            manifests: a rendered kustomization.
            secrets: Secret → its entries.
            network: where pods get addresses.
            folder: for the pods' files.
        """
        self.name = name
        self._manifests, self._secrets = manifests, secrets
        self._network, self._folder = network, folder
        self._spec = find(manifests, "RayService")["spec"]["rayClusterConfig"]
        self._token = f"token-of-{name}"
        self._made = 0
        self.head = self._new_pod("head")
        self.workers: list[Pod] = []

    @property
    def pods(self) -> list[Pod]:
        """All pods that were made."""
        return [self.head, *self.workers]

    def start(self) -> None:
        """Start the head, and the workers as soon as it answers."""
        self.start_head()
        (group,) = self._spec["workerGroupSpecs"]
        for _ in range(group["replicas"]):
            self.add_worker()

    def start_head(self) -> None:
        """Start the head's container, for the first time or again; returns once it is ready."""
        options = self._spec["gcsFaultToleranceOptions"]
        environment = {
            "RAY_ADDRESS": f"127.0.0.1:{GCS_PORT}",
            "RAY_REDIS_ADDRESS": options["redisAddress"],
            "REDIS_PASSWORD": self._resolve(options["redisPassword"]),
            "RAY_external_storage_namespace": self.name,
        }
        parameters = {"dashboard-host": "0.0.0.0", "redis-password": "$REDIS_PASSWORD"}
        self._start(self.head, self._spec["headGroupSpec"], "--head ", parameters, environment)
        wait_until(lambda: self.head.execute(_HEAD_PROBE, _HEAD_PROBE_TIMEOUT_S), timeout_s=90)

    def add_worker(self) -> Pod:
        """Start one more worker, as the operator does when one has gone."""
        pod = self._new_pod("worker")
        self.workers.append(pod)
        self.start_worker(pod)
        return pod

    def start_worker(self, pod: Pod) -> None:
        """Start a worker's container, for the first time or again."""
        (group,) = self._spec["workerGroupSpecs"]
        address = f"{self.head.address}:{GCS_PORT}"
        environment = {
            "RAY_ADDRESS": address,
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        }
        self._start(pod, group, "", {"address": address}, environment)

    def deploy(self, config: str) -> None:
        """Send `serveConfigV2` to the dashboard."""
        answer = httpx.put(
            f"http://{self.head.address}:{DASHBOARD_PORT}/api/serve/applications/",
            content=json.dumps(yaml.safe_load(config)),
            headers={"content-type": "application/json", **self._authorization},
            timeout=30,
        )
        assert answer.is_success, answer.text

    def read_applications(self) -> dict[str, Any]:
        """Ask the dashboard for all applications; none while it does not answer."""
        url = f"http://{self.head.address}:{DASHBOARD_PORT}/api/serve/applications/"
        query = {"api_type": "declarative"}
        try:
            answer = httpx.get(url, params=query, headers=self._authorization, timeout=10)
        except httpx.TransportError:
            return {}
        applications: dict[str, Any] = answer.json()["applications"] if answer.is_success else {}
        return applications

    def is_deployed(self) -> bool:
        """Whether all applications run, which is what the operator waits for."""
        applications = self.read_applications().values()
        return bool(applications) and {each["status"] for each in applications} == {"RUNNING"}

    def end(self) -> None:
        """Kill all pods."""
        for pod in self.pods:
            pod.end()

    @property
    def _authorization(self) -> dict[str, str]:
        return {"x-ray-authorization": f"Bearer {self._token}"}

    def _new_pod(self, kind: str) -> Pod:
        self._made += 1
        return Pod(f"{self.name}-{kind}-{self._made}", self._network, self._folder)

    def _start(
        self,
        pod: Pod,
        group: Mapping[str, Any],
        head: str,
        parameters: Mapping[str, str],
        environment: Mapping[str, str],
    ) -> None:
        (container,) = group["template"]["spec"]["containers"]
        words = {
            **group["rayStartParams"],
            **parameters,
            "metrics-export-port": "8080",
            "block": "true",
            "dashboard-agent-listen-port": "52365",
        }
        for name, value in _to_resources(container["resources"]).items():
            words.setdefault(name, value)
        command = f"ulimit -n 65536; ray start {head}{_to_options(words)}"
        variables = {
            **_read_image_environment(),
            **self._read_environment(container),
            **_OF_A_RAY_SERVICE,
            "RAY_CLUSTER_NAME": self.name,
            "RAY_AUTH_TOKEN": self._token,
            **environment,
        }
        pod.start(["/bin/bash", "-c", "--", command], variables)

    def _read_environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        variables: dict[str, str] = {}
        for source in container.get("envFrom", []):
            for kind, reference in source.items():
                variables |= self._read_entries(kind, reference["name"])
        return variables

    def _read_entries(self, kind: str, name: str) -> Mapping[str, str]:
        if kind == "secretRef":
            return self._secrets[name]
        entries: Mapping[str, str] = find(self._manifests, "ConfigMap", name)["data"]
        return entries

    def _resolve(self, value: Mapping[str, Any]) -> str:
        reference = value["valueFrom"]["secretKeyRef"]
        return self._secrets[reference["name"]][reference["key"]]


def is_ready(worker: Pod) -> bool:
    """Run the probe that decides whether a worker gets requests."""
    return worker.is_running and worker.execute(_WORKER_PROBE, _WORKER_PROBE_TIMEOUT_S)


def _to_resources(resources: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    limits = resources["limits"]
    cpus = limits.get("cpu") or resources["requests"]["cpu"]
    number, unit = limits["memory"][:-2], limits["memory"][-2:]
    return {"num-cpus": cpus, "memory": str(int(number) * _MEBIBYTES[unit] << 20)}


def _to_options(parameters: Mapping[str, str]) -> str:
    words = []
    for name, value in parameters.items():
        words.append(f"--{name}" if value == "true" else f"--{name}={value}")
    return " ".join(words)


def _read_image_environment() -> dict[str, str]:
    """Read what the image sets, and put this checkout in the place of what it has installed."""
    text = (ROOT / "deployments" / "kuberay" / "Dockerfile").read_text().replace("\\\n", " ")
    words = shlex.split(" ".join(re.findall("^ENV (.*)", text, re.MULTILINE)))
    return {
        **dict(word.split("=", 1) for word in words),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TRIPTYCH_HAPROXY": haproxy_binary(),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(Path(sys.executable).with_name("triptych-haproxy")),
    }
