"""Hides the GPUs that Ray has given to other replicas.

Ray 2.60 leaves an actor without `num_gpus` all GPUs of its node (ray._private.utils:
RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO is off), and a library that picks the first one takes another
replica's memory.
"""

import logging
from collections.abc import Mapping, MutableMapping, Sequence

import ray
from ray.util import get_current_placement_group

logger = logging.getLogger(__name__)

_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
"""ROCm obeys it too."""


def hide_unassigned_gpus(environment: MutableMapping[str, str]) -> None:
    """Hide all GPUs from this process if Ray has given it none; call it before CUDA starts.

    Args:
        environment: the process's environment variables.
    """
    if not ray.is_initialized():  # outside Ray there is no one to share with
        return
    group = get_current_placement_group()
    bundles = group.bundle_specs if group else ()
    hide_gpus_unless_assigned(environment, ray.get_runtime_context().get_accelerator_ids(), bundles)


def hide_gpus_unless_assigned(
    environment: MutableMapping[str, str],
    accelerator_ids: Mapping[str, Sequence[str]],
    bundles: Sequence[Mapping[str, float]],
) -> None:
    """Hide all GPUs unless the replica, or the placement group of its workers, has some.

    Args:
        environment: environment variables; changed.
        accelerator_ids: kind of accelerator → ids that Ray has given to the replica.
        bundles: resources of each bundle of the replica's placement group.
    """
    if accelerator_ids.get("GPU") or any(bundle.get("GPU") for bundle in bundles):
        return
    if environment.get(_VISIBLE_DEVICES) != "":
        logger.info("no GPU is used: the deployment has no `num_gpus` in ray_actor_options")
        environment[_VISIBLE_DEVICES] = ""
