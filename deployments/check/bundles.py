"""Checks the placement group of a deployment.

Serve has these rules too, but not in its schema: it would fail only when it deploys
(ray.serve._private.config: ReplicaConfig).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from deployments.check.flow_style import to_flow_style

STRATEGY = "placement_group_strategy"
BUNDLES = "placement_group_bundles"


def bundle_problems(deployment: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield what is wrong with a placement group.

    Args:
        deployment: One entry of `deployments`.
        path: Where it stands, with a dot at the end.
    """
    from ray.util.placement_group import VALID_PLACEMENT_GROUP_STRATEGIES

    strategy, bundles = deployment.get(STRATEGY), read_bundles(deployment)
    if strategy is not None and not deployment.get(BUNDLES):
        yield f"{path}{STRATEGY}: takes effect with {BUNDLES} only"
    elif isinstance(strategy, str) and strategy not in VALID_PLACEMENT_GROUP_STRATEGIES:
        yield f"{path}{STRATEGY}: must be {' or '.join(sorted(VALID_PLACEMENT_GROUP_STRATEGIES))}"
    needed = replica_resources(deployment.get("ray_actor_options") or {})
    if bundles and (short := [key for key in needed if bundles[0].get(key, 0) < needed[key]]):
        yield f"{path}{BUNDLES}[0]: " + _to_reason(bundles, needed, short)


def _to_reason(
    bundles: list[Mapping[str, Any]], needed: Mapping[str, Any], short: list[str]
) -> str:
    has = ", ".join(f"{bundles[0].get(key, 0):g} {key}" for key in short)
    first = {**bundles[0], **{key: needed[key] for key in short}}
    block = to_flow_style(placement_group_bundles=[first, *bundles[1:]])
    wanted = ", ".join(f"{needed[key]:g} {key}" for key in short)
    return f"the replica itself runs there and takes {wanted}, not {has}; set {block}"


def replica_resources(actor_options: Mapping[str, Any]) -> dict[str, float]:
    """Return what the replica's own process takes, by the names that bundles use."""
    cpus = actor_options.get("num_cpus")
    custom = actor_options.get("resources")
    resources = {
        "CPU": 1 if cpus is None else cpus,  # Serve's default
        "GPU": actor_options.get("num_gpus"),
        **(custom if isinstance(custom, dict) else {}),
    }
    return {key: amount for key, amount in resources.items() if is_amount(amount) and amount > 0}


def read_bundles(deployment: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """Return the bundles; None if there are none, or not what Serve's schema accepts."""
    bundles = deployment.get(BUNDLES)
    if not isinstance(bundles, list) or not bundles:
        return None
    is_valid = all(
        isinstance(bundle, dict) and all(is_amount(amount) for amount in bundle.values())
        for bundle in bundles
    )
    return bundles if is_valid else None


def is_amount(value: Any) -> bool:
    """Whether a value is a number of CPUs, GPUs or other resources."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
