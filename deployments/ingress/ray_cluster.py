"""Ray and Ray Serve as one ingress replica sees them: the `Cluster` of the model watcher."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import ray
from ray import serve

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


class RayCluster:
    """The cluster that this process is part of."""

    def __init__(self, fetch_details: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        """Look up this replica's node; `fetch_details` fetches what Serve runs."""
        self.fetch_details = fetch_details
        self.node_id: str = ray.get_runtime_context().get_node_id()

    def get_handle(self, deployment: str, application: str) -> "DeploymentHandle[Any]":
        """A handle to a deployment, which need not be running."""
        return serve.get_deployment_handle(deployment, app_name=application, _check_exists=False)

    def get_address(self) -> str:
        """The IP address of this replica's node."""
        address: str = ray.util.get_node_ip_address()
        return address
