"""`python -m deployments.check FILE`: everything wrong with a configuration, one line each.

Ray is not started. Serve's own schemas let unknown keys pass for forward compatibility, so they are
looked for here; the options of vLLM are read from its source, because importing it takes seconds.
"""

import ast
import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from deployments.check.deployment_options import deployment_problems, without_policies
from deployments.check.schema import import_problem, schema_problems, unknown_keys
from deployments.check.yaml_file import read_yaml
from deployments.config.base import application_name
from deployments.config.diffusion import DiffusionArgs
from deployments.config.embedding import EmbeddingArgs
from deployments.config.ingress import IngressArgs
from deployments.config.ledger import LedgerArgs
from deployments.config.llm import LlmArgs
from deployments.discovery import DEPLOYMENTS, KINDS, LEDGER, LEDGER_PATH
from deployments.models.engine_loading import FAKE_SOURCE

_INGRESS = "deployments.app:ingress"
_LLM = "deployments.app:llm"
_ARGS: Mapping[str, type[BaseModel]] = {
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
    for line in schema_problems(without_policies(config), ServeDeploySchema, ""):
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

    yield from unknown_keys(config, ServeDeploySchema, "")
    yield from unknown_keys(config.get("http_options"), HTTPOptionsSchema, "http_options.")
    for index, application in enumerate(config["applications"]):
        yield from _application_problems(application, f"applications[{index}]")
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
        return  # somebody's own application beside ours
    args = application.get("args") or {}
    yield from schema_problems(args, _ARGS[import_path], f"{path}.args.")
    yield from deployment_problems(application, _DEPLOYMENTS[import_path], path)
    if import_path == _INGRESS and application.get("route_prefix", "/") != "/":
        yield f"{path}.route_prefix: must be /, since clients ask for /v1/…"
    if import_path in KINDS and isinstance(args.get("id"), str):
        yield from _model_problems(application, args, path)


def _model_problems(application: Mapping[str, Any], args: Any, path: str) -> Iterator[str]:
    expected = application_name(args["id"])
    if application.get("name") != expected:
        yield f"{path}.name: the application of model '{args['id']}' must be named '{expected}'"
    if application.get("route_prefix", "/") is not None:
        yield f"{path}.route_prefix: must be null, since a model is reached through the ingress"
    key = "engine" if application["import_path"] == _LLM else "vllm"
    options = args.get(key) if args.get("source") != FAKE_SOURCE else None
    known_options = _vllm_options() if isinstance(options, dict) else None
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
        yield f"applications: {len(ledgers)} ledgers would each keep limits of their own"


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
        config, twins = read_yaml(Path(arguments[0]).read_bytes())
        problems = list(dict.fromkeys([*twins, *find_problems(config)]))
    except OSError as error:
        problems = [f"{arguments[0]}: {error.strerror}"]
    except yaml.YAMLError as error:
        problems = [f"{arguments[0]}: not YAML: {' '.join(str(error).split())}"]
    except RecursionError:
        problems = [f"{arguments[0]}: nested too deeply"]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
