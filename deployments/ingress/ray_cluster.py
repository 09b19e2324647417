"""Ray and Ray Serve as one ingress replica sees them: the `Cluster` of the model watcher."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ray
from ray import serve

from deployments.discovery import fetch_details

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


class RayCluster:
    """The cluster that this process is part of."""

    def __init__(self) -> None:
        """Look up this replica's node."""
        self.node_id: str = ray.get_runtime_context().get_node_id()

    async def fetch_details(self) -> Mapping[str, Any]:
        """Fetch Serve's details of all applications."""
        return await fetch_details()

    def get_handle(self, deployment: str, application: str) -> "DeploymentHandle[Any]":
        """A handle to a deployment, which need not be running."""
        return serve.get_deployment_handle(deployment, app_name=application, _check_exists=False)

    def get_address(self) -> str:
        """The IP address of this replica's node."""
        address: str = ray.util.get_node_ip_address()
        return address
