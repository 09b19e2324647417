"""Checks the deployments of one application: names, replicas, options and scaling policies."""

import copy
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from deployments.check.bundles import bundle_problems
from deployments.check.schema import import_problem, schema_problems, unknown_keys
from deployments.discovery import LEDGER


def deployment_problems(application: Mapping[str, Any], name: str, path: str) -> Iterator[str]:
    """Yield the problems of an application's deployments.

    Args:
        application: One entry of `applications`.
        name: The name of the only deployment that the application has.
        path: Where the application stands, such as `applications[0]`.
    """
    from ray.serve.schema import DeploymentSchema, RayActorOptionsSchema

    yield from _env_problems(application.get("runtime_env"), f"{path}.runtime_env")
    deployments = application.get("deployments") or []
    if sum(deployment.get("name") == name for deployment in deployments) > 1:
        yield f"{path}.deployments: '{name}' is listed more than once"
    for index, deployment in enumerate(deployments):
        where = f"{path}.deployments[{index}]"
        if deployment.get("name") != name:
            yield f"{where}.name: {application['import_path']} has one deployment, named '{name}'"
        yield from unknown_keys(deployment, DeploymentSchema, f"{where}.")
        autoscaling = deployment.get("autoscaling_config") or {}
        yield from _autoscaling_problems(autoscaling, f"{where}.autoscaling_config.")
        yield from bundle_problems(deployment, f"{where}.")
        if name == LEDGER:
            yield from _ledger_problems(deployment, f"{where}.")
        options = deployment.get("ray_actor_options")
        yield from unknown_keys(options, RayActorOptionsSchema, f"{where}.ray_actor_options.")
        yield from _env_problems(
            (options or {}).get("runtime_env"), f"{where}.ray_actor_options.runtime_env"
        )


def _ledger_problems(deployment: Mapping[str, Any], path: str) -> Iterator[str]:
    replicas = {"num_replicas": deployment.get("num_replicas")}
    autoscaling = deployment.get("autoscaling_config") or {}
    for bound in ("min_replicas", "max_replicas", "initial_replicas"):
        replicas[f"autoscaling_config.{bound}"] = autoscaling.get(bound)
    for key, count in replicas.items():
        if count not in (None, 1):
            yield f"{path}{key}: must be 1: each ledger would keep its own limits"


def _env_problems(runtime_env: Any, path: str) -> Iterator[str]:
    """Yield variables that are not text; Ray would refuse them only when a replica starts."""
    variables = runtime_env.get("env_vars") if isinstance(runtime_env, dict) else None
    if variables is None:
        return
    if not isinstance(variables, dict):
        yield f"{path}.env_vars: must be a mapping"
        return
    for name, value in variables.items():
        if not isinstance(name, str) or not isinstance(value, str):
            yield f"{path}.env_vars.{name}: name and value must be strings; quote them"


def _autoscaling_problems(autoscaling: Mapping[str, Any], path: str) -> Iterator[str]:
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    yield from unknown_keys(autoscaling, AutoscalingConfig, path)
    policy = autoscaling.get("policy")
    if isinstance(policy, dict):
        yield from unknown_keys(policy, AutoscalingPolicy, f"{path}policy.")
        yield from _policy_problems(policy, f"{path}policy.")
    # Serve's schema of a deployment accepts any mapping here, and fails when it deploys.
    yield from schema_problems(_without_policy(autoscaling), AutoscalingConfig, path)


def _policy_problems(policy: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield the errors that Serve's controller would raise when it makes the policy."""
    import_path = policy.get("policy_function")
    problem = "is missing" if import_path is None else import_problem(str(import_path))
    if problem:
        yield f"{path}policy_function: {problem}"
        return
    module_name, _, attribute = str(import_path).partition(":")
    make = getattr(importlib.import_module(module_name), attribute)
    arguments = policy.get("policy_kwargs") or {}
    if not inspect.isclass(make):
        if arguments:
            yield f"{path}policy_kwargs: '{attribute}' is a function, so it takes none"
        return
    try:
        make(**arguments)
    except Exception as error:  # a policy may raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        yield f"{path}policy_kwargs: {reason}"


def _without_policy(autoscaling: Mapping[str, Any]) -> dict[str, Any]:
    """Leave the policy out: Serve's schema imports it, and its error does not name the problem."""
    is_checked = isinstance(autoscaling.get("policy"), dict)
    return {key: autoscaling[key] for key in autoscaling if key != "policy" or not is_checked}


def without_policies(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the configuration for Serve's schema, without the policies checked here."""
    plain = copy.deepcopy(dict(config))
    for application in plain["applications"]:
        for deployment in application.get("deployments") or []:
            if isinstance(autoscaling := deployment.get("autoscaling_config"), dict):
                deployment["autoscaling_config"] = _without_policy(autoscaling)
    return plain
