"""`python -m deployments.check FILE`: everything wrong with a configuration, one line each.

Ray is not started. Serve's own schemas let unknown keys pass for forward compatibility, so they are
looked for here; the options of vLLM are read from its source, because importing it takes seconds.
"""

import ast
import copy
import importlib
import importlib.util
import inspect
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from deployments.config import (
    DiffusionArgs,
    EmbeddingArgs,
    IngressArgs,
    LedgerArgs,
    LlmArgs,
    application_name,
)
from deployments.discovery import DEPLOYMENTS, KINDS, LEDGER, LEDGER_PATH
from deployments.loading import FAKE_SOURCE

_PACKAGE = "deployments.app:"
_ARGS: Mapping[str, type[BaseModel]] = {
    "deployments.app:ingress": IngressArgs,
    LEDGER_PATH: LedgerArgs,
    "deployments.app:llm": LlmArgs,
    "deployments.app:embedding": EmbeddingArgs,
    "deployments.app:diffusion": DiffusionArgs,
}
_DEPLOYMENTS: Mapping[str, str] = {
    "deployments.app:ingress": "Ingress",
    LEDGER_PATH: LEDGER,
    **{path: DEPLOYMENTS[kind] for path, kind in KINDS.items()},
}


def find_problems(config: Any) -> Iterator[str]:
    """Say what is wrong with a parsed configuration: one line each, with the path of the key."""
    from ray.serve.schema import ServeDeploySchema

    shape = list(_shape_problems(config))
    if shape:
        yield from shape
        return
    ours = list(_problems(config))
    yield from ours
    # Serve's words for what we have said already would make two lines of one mistake.
    said = {line.partition(": ")[0] for line in ours}
    for line in _schema_problems(_without_policies(config), ServeDeploySchema, ""):
        if line.partition(": ")[0] not in said:
            yield line


def _shape_problems(config: Any) -> Iterator[str]:
    """Where a mapping or a list is needed and something else stands; all the rest needs them."""
    if not isinstance(config, dict) or not isinstance(config.get("applications"), list):
        yield "applications: a list of applications is needed"
        return
    yield from _wrong_types(config, "", http_options=dict)
    for index, application in enumerate(config["applications"]):
        path = f"applications[{index}]"
        if not isinstance(application, dict):
            yield f"{path}: an application is a mapping"
            continue
        yield from _wrong_types(application, f"{path}.", import_path=str, args=dict)
        deployments = application.get("deployments") or []
        if not isinstance(deployments, list):
            yield f"{path}.deployments: must be a list"
            continue
        for number, deployment in enumerate(deployments):
            where = f"{path}.deployments[{number}]"
            if not isinstance(deployment, dict):
                yield f"{where}: a deployment is a mapping"
                continue
            yield from _wrong_types(
                deployment, f"{where}.", autoscaling_config=dict, ray_actor_options=dict
            )
            if isinstance(autoscaling := deployment.get("autoscaling_config"), dict):
                where = f"{where}.autoscaling_config."
                yield from _wrong_types(autoscaling, where, policy=dict)


def _wrong_types(mapping: Mapping[str, Any], path: str, **types: type) -> Iterator[str]:
    for key, wanted in types.items():
        value = mapping.get(key)
        if value is not None and not isinstance(value, wanted):
            yield f"{path}{key}: must be a {'mapping' if wanted is dict else 'text'}"


def _problems(config: Mapping[str, Any]) -> Iterator[str]:
    from ray.serve.schema import HTTPOptionsSchema, ServeDeploySchema

    yield from _unknown_keys(config, ServeDeploySchema, "")
    yield from _unknown_keys(config.get("http_options"), HTTPOptionsSchema, "http_options.")
    for index, application in enumerate(config["applications"]):
        yield from _application_problems(application, f"applications[{index}]")
    yield from _duplicates(config["applications"])


def _application_problems(application: Mapping[str, Any], path: str) -> Iterator[str]:
    from ray.serve.schema import ServeApplicationSchema

    yield from _unknown_keys(application, ServeApplicationSchema, f"{path}.")
    import_path = str(application.get("import_path"))
    problem = _import_problem(import_path)
    if problem:
        yield f"{path}.import_path: {problem}"
        return
    if import_path not in _ARGS:
        return  # somebody's own application beside ours
    args = application.get("args") or {}
    yield from _schema_problems(args, _ARGS[import_path], f"{path}.args.")
    yield from _deployment_problems(application, _DEPLOYMENTS[import_path], path)
    if import_path in KINDS and isinstance(args.get("id"), str):
        yield from _model_problems(application, args, path)


def _model_problems(application: Mapping[str, Any], args: Any, path: str) -> Iterator[str]:
    expected = application_name(args["id"])
    if application.get("name") != expected:
        yield f"{path}.name: the application of model '{args['id']}' must be named '{expected}'"
    if application.get("route_prefix", "/") is not None:
        yield f"{path}.route_prefix: must be null, since a model is reached through the ingress"
    key = "engine" if application["import_path"] == f"{_PACKAGE}llm" else "vllm"
    options = args.get(key) if args.get("source") != FAKE_SOURCE else None
    known_options = _vllm_options() if isinstance(options, dict) else None
    if known_options is not None and options is not None:
        for option in options:
            if option not in known_options:
                yield f"{path}.args.{key}.{option}: vLLM has no such option"


def _deployment_problems(application: Mapping[str, Any], name: str, path: str) -> Iterator[str]:
    from ray.serve.schema import DeploymentSchema, RayActorOptionsSchema

    for index, deployment in enumerate(application.get("deployments") or []):
        where = f"{path}.deployments[{index}]"
        if deployment.get("name") != name:
            yield f"{where}.name: {application['import_path']} has one deployment, named '{name}'"
        yield from _unknown_keys(deployment, DeploymentSchema, f"{where}.")
        autoscaling = deployment.get("autoscaling_config") or {}
        yield from _autoscaling_problems(autoscaling, f"{where}.autoscaling_config.")
        yield from _unknown_keys(
            deployment.get("ray_actor_options"),
            RayActorOptionsSchema,
            f"{where}.ray_actor_options.",
        )


def _autoscaling_problems(autoscaling: Mapping[str, Any], path: str) -> Iterator[str]:
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    yield from _unknown_keys(autoscaling, AutoscalingConfig, path)
    policy = autoscaling.get("policy")
    if isinstance(policy, dict):
        yield from _unknown_keys(policy, AutoscalingPolicy, f"{path}policy.")
        yield from _policy_problems(policy, f"{path}policy.")
    # Serve's schema of a deployment takes any mapping, and finds out when it deploys.
    yield from _schema_problems(_without_policy(autoscaling), AutoscalingConfig, path)


def _policy_problems(policy: Mapping[str, Any], path: str) -> Iterator[str]:
    """What Serve's controller would find when it makes the policy."""
    import_path = policy.get("policy_function")
    problem = "is missing" if import_path is None else _import_problem(str(import_path))
    if problem:
        yield f"{path}policy_function: {problem}"
        return
    module_name, _, attribute = str(import_path).partition(":")
    make = getattr(importlib.import_module(module_name), attribute)
    arguments = policy.get("policy_kwargs") or {}
    if not inspect.isclass(make):
        if arguments:
            yield f"{path}policy_kwargs: '{attribute}' is a function, which Serve gives none"
        return
    try:
        make(**arguments)
    except Exception as error:  # whatever it finds wrong with them
        reason = str(error).partition("\n")[0] or type(error).__name__
        yield f"{path}policy_kwargs: {reason}"


def _without_policy(autoscaling: Mapping[str, Any]) -> dict[str, Any]:
    """Serve's schema imports the policy, and does not say what it stumbles over there."""
    is_ours = isinstance(autoscaling.get("policy"), dict)
    return {key: autoscaling[key] for key in autoscaling if key != "policy" or not is_ours}


def _without_policies(config: Mapping[str, Any]) -> dict[str, Any]:
    plain = copy.deepcopy(dict(config))
    for application in plain["applications"]:
        for deployment in application.get("deployments") or []:
            if isinstance(autoscaling := deployment.get("autoscaling_config"), dict):
                deployment["autoscaling_config"] = _without_policy(autoscaling)
    return plain


def _unknown_keys(value: Any, schema: type[BaseModel], path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key in value:
            if key not in schema.model_fields:
                yield f"{path}{key}: there is no such key"


def _schema_problems(value: Any, schema: type[BaseModel], path: str) -> Iterator[str]:
    try:
        schema.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False, include_context=False):
            where = f"{path}{_to_path(detail['loc'])}".removesuffix(".")
            yield f"{where}: {_to_reason(detail['type'], detail['msg'])}"


def _to_path(location: tuple[int | str, ...]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).removeprefix(".")


def _to_reason(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "there is no such key"
    if kind == "missing":
        return "is missing"
    reason = message.removeprefix("Value error, ").splitlines()[0]
    return reason[:1].lower() + reason[1:]


def _duplicates(applications: list[Any]) -> Iterator[str]:
    models = [item for item in applications if item.get("import_path") in KINDS]
    ids = [(item.get("args") or {}).get("id") for item in models]
    for model_id, count in Counter(
        model_id for model_id in ids if isinstance(model_id, str)
    ).items():
        if count > 1:
            yield f"applications: {count} models have the id '{model_id}'"
    ingresses = [item for item in applications if item.get("import_path") == f"{_PACKAGE}ingress"]
    if len(ingresses) != 1:
        yield f"applications: one {_PACKAGE}ingress is needed, not {len(ingresses)}"
    ledgers = [item for item in applications if item.get("import_path") == LEDGER_PATH]
    if len(ledgers) > 1:
        yield f"applications: {len(ledgers)} ledgers would each keep limits of their own"


def _import_problem(import_path: str) -> str | None:
    """Why an import path leads nowhere; None when it leads somewhere."""
    if ":" not in import_path:
        return "must be 'module:attribute'"
    if import_path in _ARGS:
        return None
    module_name, _, attribute = import_path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the module, which may do anything
        return f"module '{module_name}' cannot be imported ({type(error).__name__})"
    if not hasattr(module, attribute):
        return f"module '{module_name}' has no '{attribute}'"
    return None


def _vllm_options() -> frozenset[str] | None:
    """Fields of vLLM's `AsyncEngineArgs` (0.32: engine/arg_utils.py); None without vLLM."""
    package = importlib.util.find_spec("vllm")
    if package is None or package.origin is None:
        return None
    tree = ast.parse(Path(package.origin).with_name("engine").joinpath("arg_utils.py").read_text())
    return frozenset(
        field.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name in ("EngineArgs", "AsyncEngineArgs")
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    )


def main(arguments: list[str]) -> int:
    """Print the problems of one file; 1 if there are any."""
    if len(arguments) != 1:
        print("usage: python -m deployments.check FILE", file=sys.stderr)
        return 2
    try:
        config = yaml.safe_load(Path(arguments[0]).read_bytes())
    except OSError as error:
        problems = [f"{arguments[0]}: {error.strerror}"]
    except yaml.YAMLError as error:
        problems = [f"{arguments[0]}: not YAML: {' '.join(str(error).split())}"]
    else:
        problems = list(dict.fromkeys(find_problems(config)))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
