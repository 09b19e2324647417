"""Starts workers that hold GPUs, for tests of placement groups: a fake engine uses them.

They are placed as vLLM's are (vLLM 0.32 v1/executor/ray_executor_v2.py): Ray actors in the
replica's placement group, one in each bundle with a GPU, which takes all of it.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util import get_current_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from api.errors import ReplicaLostError
from deployments.engines.sources import EngineStartError

_START_TIMEOUT_S = 120.0


class FakeWorker:
    """One worker; it computes nothing."""

    def find_place(self) -> dict[str, Any]:
        """Return the worker's node and its GPUs."""
        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        return {"node": context.get_node_id(), "gpus": [str(gpu) for gpu in gpus]}

    def run(self) -> None:
        """Run until the worker is killed."""
        threading.Event().wait()


class FakeWorkers:
    """The workers of one replica; they die with it."""

    def __init__(self, count: int) -> None:
        """Start the workers; blocks until all of them run.

        Raises:
            EngineStartError: the placement group has too few bundles with a GPU.
            ray.exceptions.GetTimeoutError: they do not run after two minutes.
        """
        group = get_current_placement_group()
        specs: Sequence[Mapping[str, float]] = group.bundle_specs if group else ()
        bundles = [index for index, bundle in enumerate(specs) if bundle.get("GPU")]
        if group is None or len(bundles) < count:
            raise EngineStartError(f"workers: {count} need as many bundles with a GPU")
        self._actors = [_start(group, bundle) for bundle in bundles[:count]]
        places = [actor.find_place.remote() for actor in self._actors]
        self.places: list[dict[str, Any]] = ray.get(places, timeout=_START_TIMEOUT_S)
        self._ends = [actor.run.remote().future() for actor in self._actors]

    def check(self) -> None:
        """Raise ReplicaLostError if a worker has died."""
        if any(end.done() for end in self._ends):
            raise ReplicaLostError("A worker has died.")

    def shut_down(self) -> None:
        """Kill the workers."""
        for actor in self._actors:
            ray.kill(actor)


def _start(group: PlacementGroup, bundle: int) -> Any:
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
    options = {"num_cpus": 0, "num_gpus": group.bundle_specs[bundle]["GPU"]}
    return ray.remote(FakeWorker).options(**options, scheduling_strategy=strategy).remote()
