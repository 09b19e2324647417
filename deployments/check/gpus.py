"""Checks that vLLM's workers get as many GPUs as they need, and as much of each.

Sources: vLLM 0.32, the files named beside each rule, and Serve's rules for placement groups.
"""

from collections.abc import Iterator
from typing import Any

from deployments.check.bundles import BUNDLES, STRATEGY
from deployments.check.flow_style import to_flow_style
from deployments.check.vllm_models import VllmModel, find_vllm_models, has_gpus

DEFAULT_UTILIZATION = 0.92
"""`gpu_memory_utilization` of vLLM (config/cache.py)."""

_LONGEST_BLOCK = 64
"""Bundles; more are not written out."""


def gpu_problems(applications: list[Any]) -> Iterator[str]:
    """Yield a line for each mistake: the key, the reason, and the block that would be right.

    Without a GPU in the whole configuration, it is one for CPUs, and nothing is demanded.
    """
    is_for_gpus = has_gpus(applications)
    for model in find_vllm_models(applications):
        if model.uses_ray:
            yield from _ray_problems(model)
        elif model.num_gpus != model.gpus:
            yield from _replica_problems(model, is_for_gpus)
        elif len(model.bundle_gpus) > 0 and sum(model.bundle_gpus) != model.gpus:
            yield (
                f"{model.deployment_path}.{BUNDLES}: {_to_need(model)}, all in the replica's own "
                f"bundle, not {sum(model.bundle_gpus):g}; leave {BUNDLES} out"
            )


def _replica_problems(model: VllmModel, is_for_gpus: bool) -> Iterator[str]:
    """Yield what is wrong where the workers are the replica's own processes."""
    path = f"{model.deployment_path}.ray_actor_options.num_gpus"
    if 0 < model.num_gpus < 1 and model.gpus == 1:
        yield from _share_problems(model)
    elif model.num_gpus or model.bundle_gpus or (is_for_gpus and model.gpus > 1):
        yield f"{path}: {_to_need(model)}, not {model.num_gpus:g}; set {_to_fix(model)}"


def _share_problems(model: VllmModel) -> Iterator[str]:
    """Yield a share of a GPU that vLLM exceeds: Ray counts shares and does not enforce them."""
    asked = model.options.get("gpu_memory_utilization")
    utilization = DEFAULT_UTILIZATION if asked is None else asked
    if not isinstance(utilization, int | float):
        return
    # Also with `kv_cache_memory_bytes`: so much of the GPU must be free when vLLM starts
    # (v1/worker/utils.py: request_memory).
    if utilization > model.num_gpus:
        value = f"{utilization:g}" + (" by vLLM's default" if asked is None else "")
        right = float(f"{0.9 * model.num_gpus:.2g}")
        block = to_flow_style(**{model.options_key: {"gpu_memory_utilization": right}})
        yield (
            f"{model.options_path}.gpu_memory_utilization: {value} is more than num_gpus: "
            f"{model.num_gpus:g}, so two such replicas would exceed the memory of their GPU; "
            f"set {block}"
        )


def _ray_problems(model: VllmModel) -> Iterator[str]:
    """Yield what is wrong where the workers are Ray actors."""
    if "data_parallel_size" in model.sizes:
        # Every rank takes the first bundles of the group (v1/executor/ray_executor_v2.py).
        yield (
            f"{model.options_path}.data_parallel_size: over Ray every rank would wait for the same "
            f"bundles; on one node set {_to_replica_block(model)} without {BUNDLES} and "
            "distributed_executor_backend; over several nodes num_replicas instead"
        )
        return
    if not model.bundles:
        # vLLM would make a group of its own, whose GPUs Serve does not know of.
        yield (
            f"{model.options_path}.distributed_executor_backend: ray takes the GPUs of "
            f"{BUNDLES}; set {_to_bundles_block(model)}"
        )
        return
    yield from _bundle_problems(model)
    # vLLM counts the GPUs that the replica sees on its own node (config/parallel.py).
    if model.backend is None and model.strategy != "STRICT_PACK":
        block = to_flow_style(**{model.options_key: {"distributed_executor_backend": "ray"}})
        yield (
            f"{model.options_path}.distributed_executor_backend: without it vLLM fails if the "
            f"bundles are on several nodes; set {block}, or {STRATEGY}: STRICT_PACK for one node"
        )


def _bundle_problems(model: VllmModel) -> Iterator[str]:
    """Yield bundles without room for exactly one worker each (v1/executor/ray_utils.py)."""
    gpus = model.bundle_gpus
    where = f"{model.deployment_path}.{BUNDLES}"
    is_whole = all(count == 1 or (count < 1 and model.is_shared) for count in gpus)
    if len(gpus) != model.gpus or not is_whole:
        has = f"{sum(gpus):g} in {len(gpus)}"
        reason = f"{_to_need(model)}, each in a bundle of its own, not {has}"
        yield f"{where}: {reason}; set {_to_bundles_block(model)}"
    if model.num_gpus:
        # The replica is in the first bundle, and a worker takes all of that bundle's GPU.
        yield (
            f"{model.deployment_path}.ray_actor_options.num_gpus: the workers take the GPUs of "
            f"{BUNDLES}, so none is left for the replica itself; leave it out"
        )


def _to_need(model: VllmModel) -> str:
    sizes = " x ".join(f"{key} {size}" for key, size in model.sizes.items())
    return f"{sizes or 'vLLM'} needs {model.gpus} GPU{'s' if model.gpus > 1 else ''}"


def _to_fix(model: VllmModel) -> str:
    """Return the blocks that give the model what it needs, or let it use what it has."""
    one_node = _to_replica_block(model)
    if model.gpus > 1 and "data_parallel_size" not in model.sizes:
        backend = to_flow_style(**{model.options_key: {"distributed_executor_backend": "ray"}})
        return f"{one_node}; over several nodes: {_to_bundles_block(model)}, and {backend}"
    if model.num_gpus > 1 == model.gpus and float(model.num_gpus).is_integer():
        size = {"tensor_parallel_size": int(model.num_gpus)}
        return f"{one_node}, or {to_flow_style(**{model.options_key: size})}"
    return one_node


def _to_replica_block(model: VllmModel) -> str:
    return to_flow_style(ray_actor_options={"num_gpus": model.gpus})


def _to_bundles_block(model: VllmModel) -> str:
    own = {key: amount for key, amount in model.replica.items() if key != "GPU"}
    count = min(model.gpus, _LONGEST_BLOCK)
    block = to_flow_style(**{BUNDLES: [{**own, "GPU": 1}, *({"GPU": 1} for _ in range(count - 1))]})
    if count < model.gpus:
        block = f"{block.removesuffix(']')}, …] with {model.gpus} bundles"
    return f"{block}, {STRATEGY}: PACK"
