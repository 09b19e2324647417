"""Reads from a configuration which models vLLM runs, and which GPUs their deployments ask for."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.check.bundles import (
    BUNDLES,
    STRATEGY,
    is_amount,
    read_bundles,
    replica_resources,
)
from deployments.config.base import FAKE_SOURCE

_SIZES = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "prefill_context_parallel_size",
    "data_parallel_size",
)
"""The options that multiply vLLM's GPUs (vLLM 0.32 config/parallel.py: world_size_across_dp)."""

_ELSEWHERE = frozenset(
    {"nnodes", "data_parallel_rank", "data_parallel_size_local", "data_parallel_backend"}
)
"""With one of them, others than the replica start a part of the workers, or vLLM places them."""

_PER_WORKER = "VLLM_RAY_PER_WORKER_GPUS"
"""The environment variable that replaces the one GPU that each worker takes of its bundle."""


@dataclass(frozen=True, slots=True)
class VllmModel:
    """A model that vLLM runs; all its numbers have the right types."""

    options: Mapping[str, Any]
    """Of vLLM's `AsyncEngineArgs`."""
    options_path: str
    """Where they stand: `applications[1].args.engine`."""
    deployment_path: str
    """`applications[1].deployments[0]`, without the number if there is none."""
    sizes: Mapping[str, int]
    """Those of `_SIZES` that are not 1."""
    replica: Mapping[str, float]
    """The replica's own resources, such as `CPU` and `GPU`; none of them is 0."""
    bundles: list[Mapping[str, Any]]
    strategy: Any
    is_shared: bool
    """Whether the environment says how much of a GPU each worker takes."""

    @property
    def options_key(self) -> str:
        """`engine` or `vllm`."""
        return self.options_path.rpartition(".")[2]

    @property
    def gpus(self) -> int:
        """How many GPUs vLLM uses."""
        return math.prod(self.sizes.values())

    @property
    def num_gpus(self) -> float:
        """How many GPUs Ray gives to the replica itself."""
        return self.replica.get("GPU", 0)

    @property
    def bundle_gpus(self) -> list[float]:
        """GPUs of the bundles that have some."""
        return [bundle["GPU"] for bundle in self.bundles if bundle.get("GPU")]

    @property
    def backend(self) -> Any:
        """What the configuration says of `distributed_executor_backend`."""
        return self.options.get("distributed_executor_backend")

    @property
    def uses_ray(self) -> bool:
        """Whether the workers are Ray actors, as vLLM decides (config/parallel.py)."""
        by_itself = self.backend is None and self.gpus > 1 and bool(self.bundles)
        return by_itself or self.backend == "ray"


def find_vllm_models(applications: list[Any]) -> Iterator[VllmModel]:
    """Yield the models of vLLM, except those whose values do not have the right types."""
    for index, application in enumerate(applications):
        args = application.get("args") or {}
        key = _find_key(application.get("import_path"), args)
        if key is None or args.get("source") == FAKE_SOURCE:
            continue
        options = args.get(key) or {}
        sizes = _read_sizes(options) if isinstance(options, dict) else None
        if sizes is not None:
            path = f"applications[{index}]"
            yield from _read_model(application, options, sizes, path, f"{path}.args.{key}")


def _find_key(import_path: Any, args: Mapping[str, Any]) -> str | None:
    if import_path == "deployments.app:llm":
        return "engine"
    is_vllm = import_path == "deployments.app:embedding" and args.get("runner") == "vllm"
    return "vllm" if is_vllm else None


def _read_sizes(options: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the sizes above 1; None if one is invalid, or says nothing about the replica."""
    sizes = {key: options[key] for key in _SIZES if options.get(key) is not None}
    if options.keys() & _ELSEWHERE or not all(_is_size(size) for size in sizes.values()):
        return None
    return {key: size for key, size in sizes.items() if size > 1}


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _read_model(
    application: Mapping[str, Any],
    options: Mapping[str, Any],
    sizes: Mapping[str, int],
    path: str,
    options_path: str,
) -> Iterator[VllmModel]:
    deployments = application.get("deployments") or []
    deployment = deployments[0] if deployments else {}
    actor = deployment.get("ray_actor_options") or {}
    bundles = read_bundles(deployment)
    num_gpus = actor.get("num_gpus")
    is_valid = num_gpus is None or is_amount(num_gpus)
    if is_valid and (bundles or not deployment.get(BUNDLES)):
        yield VllmModel(
            options=options,
            options_path=options_path,
            deployment_path=f"{path}.deployments" + ("[0]" if deployments else ""),
            sizes=sizes,
            replica=replica_resources(actor),
            bundles=bundles or [],
            strategy=deployment.get(STRATEGY),
            is_shared=_sets_per_worker(application) or _sets_per_worker(actor),
        )


def _sets_per_worker(owner: Mapping[str, Any]) -> bool:
    """Whether a runtime environment says how much of a GPU each worker takes."""
    runtime_env = owner.get("runtime_env")
    variables = runtime_env.get("env_vars") if isinstance(runtime_env, dict) else None
    return isinstance(variables, dict) and _PER_WORKER in variables


def has_gpus(applications: list[Any]) -> bool:
    """Whether any deployment of the configuration asks for a GPU."""
    return any(
        "GPU" in replica_resources(deployment.get("ray_actor_options") or {})
        or any(bundle.get("GPU") for bundle in read_bundles(deployment) or [])
        for application in applications
        for deployment in application.get("deployments") or []
    )
