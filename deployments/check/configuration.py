"""Finds everything that is wrong with a parsed configuration, without starting Ray.

Serve's own schemas accept unknown keys for forward compatibility, so the checks for them are here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from deployments.check.deployment_options import deployment_problems, without_policies
from deployments.check.gpus import gpu_problems
from deployments.check.model_sources import source_problems
from deployments.check.schema import import_problem, schema_problems, unknown_keys
from deployments.check.vllm_options import find_vllm_options
from deployments.config.base import FAKE_SOURCE, Args, application_name
from deployments.config.diffusion import DiffusionArgs
from deployments.config.embedding import EmbeddingArgs
from deployments.config.ingress import IngressArgs
from deployments.config.ledger import LedgerArgs
from deployments.config.llm import LlmArgs
from deployments.config.stream_deadlines import DRAINING_S, HARD_STOP_VARIABLE, find_hard_stop_s
from deployments.config.user_config import (
    UserConfigError,
    apply_user_config,
    find_user_config_problems,
)
from deployments.discovery import DEPLOYMENTS, KINDS, LEDGER, LEDGER_PATH

_INGRESS = "deployments.app:ingress"
_LLM = "deployments.app:llm"
_ARGS: Mapping[str, type[Args]] = {
    _INGRESS: IngressArgs,
    LEDGER_PATH: LedgerArgs,
    _LLM: LlmArgs,
    "deployments.app:embedding": EmbeddingArgs,
    "deployments.app:diffusion": DiffusionArgs,
}
_DEPLOYMENTS: Mapping[str, str] = {
    _INGRESS: "Ingress",
    LEDGER_PATH: LEDGER,
    **{path: DEPLOYMENTS[kind] for path, kind in KINDS.items()},
}


def find_problems(config: Any) -> Iterator[str]:
    """Yield a line for each problem: the path of the key, and what is wrong with it."""
    from ray.serve.schema import ServeDeploySchema

    shape = list(_shape_problems(config))
    if shape:
        yield from shape
        return
    ours = list(_problems(config))
    yield from ours
    # One line for each mistake: Serve may report the same key in its own words.
    reported = {line.partition(": ")[0] for line in ours}
    for line in schema_problems(without_policies(config), ServeDeploySchema, ""):
        if line.partition(": ")[0] not in reported:
            yield line


def _shape_problems(config: Any) -> Iterator[str]:
    """Yield values that are not the mapping or list that all other checks rely on."""
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
            yield f"{path}{key}: must be a {'mapping' if wanted is dict else 'string'}"


def _problems(config: Mapping[str, Any]) -> Iterator[str]:
    from ray.serve.schema import HTTPOptionsSchema, ServeDeploySchema

    yield from unknown_keys(config, ServeDeploySchema, "")
    yield from unknown_keys(config.get("http_options"), HTTPOptionsSchema, "http_options.")
    for index, application in enumerate(config["applications"]):
        yield from _application_problems(application, f"applications[{index}]")
    yield from gpu_problems(config["applications"])
    yield from _duplicates(config["applications"])


def _application_problems(application: Mapping[str, Any], path: str) -> Iterator[str]:
    from ray.serve.schema import ServeApplicationSchema

    yield from unknown_keys(application, ServeApplicationSchema, f"{path}.")
    import_path = str(application.get("import_path"))
    problem = None if import_path in _ARGS else import_problem(import_path)
    if problem:
        yield f"{path}.import_path: {problem}"
        return
    if import_path not in _ARGS:
        return  # not an application of this project
    args = application.get("args") or {}
    yield from schema_problems(args, _ARGS[import_path], f"{path}.args.")
    yield from deployment_problems(application, _DEPLOYMENTS[import_path], path)
    live = list(_user_configs(application, f"{path}.deployments"))
    yield from _user_config_problems(_ARGS[import_path], args, live)
    if import_path == _INGRESS:
        yield from _ingress_problems(application, path)
        yield from _deadline_problems(args, [(f"{path}.args", None), *live])
    yield from source_problems(_ARGS[import_path], args, f"{path}.args", live)
    if import_path in KINDS and isinstance(args.get("id"), str):
        yield from _model_problems(application, args, path)


def _user_configs(application: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Yield every `user_config` that stands in an application, and where."""
    for number, deployment in enumerate(application.get("deployments") or []):
        if "user_config" in deployment:
            yield f"{path}[{number}].user_config", deployment["user_config"]


def _user_config_problems(
    schema: type[Args], args: Mapping[str, Any], live: list[tuple[str, Any]]
) -> Iterator[str]:
    try:
        deployed = schema.model_validate(args)
    except ValidationError:
        return  # the problems of `args` are reported, and come first
    for path, user_config in live:
        for problem in find_user_config_problems(deployed, user_config):
            yield f"{path}{problem}"


def _ingress_problems(application: Mapping[str, Any], path: str) -> Iterator[str]:
    if application.get("route_prefix", "/") != "/":
        yield f"{path}.route_prefix: must be /: clients request /v1/…"


def _deadline_problems(args: Mapping[str, Any], live: list[tuple[str, Any]]) -> Iterator[str]:
    """Yield each deadline of requests that HAProxy would not wait for."""
    hard_stop_s = find_hard_stop_s()
    longest_s = hard_stop_s - DRAINING_S
    for path, user_config in live:
        try:
            deployed = apply_user_config(IngressArgs.model_validate(args), user_config)
        except (ValidationError, UserConfigError):
            continue  # reported already
        timeout_s = deployed.limits.request_timeout_s
        if timeout_s > longest_s:
            longest_s = timeout_s  # what `user_config` leaves as it is, is named once
            yield (
                f"{path}.limits.request_timeout_s: HAProxy cuts streams {hard_stop_s:g} s after a "
                f"reload; set {HARD_STOP_VARIABLE} to {timeout_s + DRAINING_S:g} or more"
            )


def _model_problems(application: Mapping[str, Any], args: Any, path: str) -> Iterator[str]:
    expected = application_name(args["id"])
    if application.get("name") != expected:
        yield f"{path}.name: the application of model '{args['id']}' must be named '{expected}'"
    if application.get("route_prefix", "/") is not None:
        yield f"{path}.route_prefix: must be null: models are reached through the ingress"
    key = "engine" if application["import_path"] == _LLM else "vllm"
    options = args.get(key) if args.get("source") != FAKE_SOURCE else None
    known_options = find_vllm_options() if isinstance(options, dict) else None
    if known_options is not None and options is not None:
        for option in options:
            if option not in known_options:
                yield f"{path}.args.{key}.{option}: vLLM has no such option"


def _duplicates(applications: list[Any]) -> Iterator[str]:
    models = [item for item in applications if item.get("import_path") in KINDS]
    ids = [(item.get("args") or {}).get("id") for item in models]
    for model_id, count in Counter(
        model_id for model_id in ids if isinstance(model_id, str)
    ).items():
        if count > 1:
            yield f"applications: {count} models have the id '{model_id}'"
    ingresses = [item for item in applications if item.get("import_path") == _INGRESS]
    if len(ingresses) != 1:
        yield f"applications: one {_INGRESS} is needed, not {len(ingresses)}"
    ledgers = [item for item in applications if item.get("import_path") == LEDGER_PATH]
    if len(ledgers) > 1:
        yield f"applications: {len(ledgers)} ledgers would each keep their own limits"
