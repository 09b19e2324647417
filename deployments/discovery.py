"""Finds the models and the ledger among Ray Serve's applications.

`serve.status()` costs 60 ms of CPU in the caller and would stall every stream. The controller's
details (ray.serve._private, 2.60) cost less than 1 ms, include each application's `args`, and are
awaited.
"""

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import msgspec

from api.ports.tenancy import ModelKind
from api.registry import State

KINDS: Mapping[str, ModelKind] = {
    "deployments.app:llm": "llm",
    "deployments.app:embedding": "embedding",
    "deployments.app:diffusion": "diffusion",
}
"""Import path of an application → kind of model."""

DEPLOYMENTS: Mapping[ModelKind, str] = {
    "llm": "LLM",
    "embedding": "Embedding",
    "diffusion": "Diffusion",
}
"""Kind of model → name of the only deployment in its application."""

LEDGER_PATH = "deployments.app:ledger"
LEDGER = "Ledger"

_SERVING = ("RUNNING", "UPDATING")
"""States of a replica that serves; while it is updated it gets a new `user_config`."""

_SOURCE_ERROR = "SourceError: "
_VALIDATION_ERROR = re.compile(r"(.*: )?[0-9]+ validation errors? for \w+")


@dataclass(frozen=True, slots=True)
class DiscoveredModel:
    """The application of one model, in its current state."""

    application: str
    id: str
    kind: ModelKind
    state: State
    message: str | None
    """Why the version that was deployed last is not in use, in one line; None if it is."""
    deployed_at_s: int
    args: Mapping[str, Any]
    user_config: Any = None
    """Serve's `user_config`, which wins over `args`."""
    is_settled: bool = True
    """False while a new version is being deployed over the running one, or has failed."""
    replicas: frozenset[str] | None = frozenset()
    """Ids of the running replicas; None if Serve does not say. It does not while it builds a new
    version, and after that has failed, though the replicas of the version before go on."""
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    """What it says about itself where it is loaded; see `deployments.serve_look`."""
    is_autoscaled: bool = False
    """Whether Serve chooses the number of replicas."""


async def fetch_details() -> dict[str, Any]:
    """Fetch Serve's details of everything it runs, as a dict of schema `ServeInstanceDetails`."""
    # Imported here for its cost: the rest of this module needs no Ray.
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None, "a replica always has a client"
    return cast(dict[str, Any], await client._controller.get_serve_instance_details.remote())


def pack_details(details: Mapping[str, Any]) -> bytes:
    """Pack what this module reads of the details, in the order of the configuration.

    Equal details give equal bytes.
    """
    applications = {
        name: {
            "status": application["status"],
            "message": application.get("message", ""),
            "last_deployed_time_s": application.get("last_deployed_time_s"),
            "capabilities": application.get("capabilities") or {},
            "deployed_app_config": _pack_config(application.get("deployed_app_config") or {}),
            "deployments": {
                each: _pick(deployment, "message", "target_num_replicas")
                | {
                    "replicas": [
                        _pick(replica, "replica_id", "state", "node_id")
                        for replica in deployment.get("replicas", [])
                    ]
                }
                for each, deployment in application["deployments"].items()
            },
        }
        for name, application in details["applications"].items()
    }
    return zlib.compress(msgspec.msgpack.encode({"applications": applications}), level=1)


def unpack_details(packed: bytes) -> dict[str, Any]:
    """Unpack what `pack_details` has packed."""
    return cast(dict[str, Any], msgspec.msgpack.decode(zlib.decompress(packed)))


def _pack_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out arguments that only their own replicas read: there may be secrets in them."""
    picked = _pick(config, "import_path")
    if config.get("import_path") in KINDS:
        picked["args"] = config.get("args") or {}
        picked["deployments"] = [
            _pick(deployment, "name", "user_config", "autoscaling_config", "num_replicas")
            for deployment in config.get("deployments") or []
        ]
    return picked


def _pick(mapping: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: mapping[name] for name in names if name in mapping}


def to_models(details: Mapping[str, Any]) -> Iterator[DiscoveredModel]:
    """Yield the models among the applications, in the order of the configuration."""
    for name, application in details["applications"].items():
        config = application.get("deployed_app_config") or {}
        kind = KINDS.get(config.get("import_path", ""))
        model_id = (config.get("args") or {}).get("id")
        if kind is None or model_id is None or application["status"] == "DELETING":
            continue
        state = _to_state(application, kind)
        has_failed = application["status"] == "DEPLOY_FAILED"
        message = _to_message(application, kind) if has_failed else None
        yield DiscoveredModel(
            application=name,
            id=str(model_id),
            kind=kind,
            state=state,
            message=message,
            deployed_at_s=int(application.get("last_deployed_time_s") or 0),
            args=config["args"],
            user_config=_find_options(config, kind).get("user_config"),
            is_settled=application["status"] == "RUNNING",
            replicas=_find_replicas(application, kind),
            capabilities=application.get("capabilities") or {},
            is_autoscaled=_is_autoscaled(_find_options(config, kind)),
        )


def keep_version(model: DiscoveredModel, before: DiscoveredModel | None) -> DiscoveredModel:
    """Describe the version that serves, as long as the one known before still does.

    Args:
        model: what Serve says now.
        before: the same application as this function returned it last; None if it is new.
    """
    if before is None or model.is_settled or (before.id, before.kind) != (model.id, model.kind):
        return model
    if model.replicas is None and before.state in ("ready", "idle"):
        return replace(before, is_settled=False, message=model.message)
    if model.replicas and before.replicas and model.replicas & before.replicas:
        return replace(
            model,
            args=before.args,
            user_config=before.user_config,
            deployed_at_s=before.deployed_at_s,
            capabilities=before.capabilities,
        )
    return model


def find_ledger_application(details: Mapping[str, Any]) -> str | None:
    """Name of the ledger's application; None if there is none."""
    for name, application in details["applications"].items():
        config = application.get("deployed_app_config") or {}
        if config.get("import_path") == LEDGER_PATH and application["status"] != "DELETING":
            return str(name)
    return None


def find_nodes(details: Mapping[str, Any]) -> set[str]:
    """Ids of the nodes that have running or starting replicas."""
    return {
        replica["node_id"]
        for application in details["applications"].values()
        for deployment in application["deployments"].values()
        for replica in deployment.get("replicas", [])
        if replica.get("node_id")
    }


def _find_options(config: Mapping[str, Any], kind: ModelKind) -> Mapping[str, Any]:
    for deployment in config.get("deployments") or []:
        if deployment["name"] == DEPLOYMENTS[kind]:
            return cast(Mapping[str, Any], deployment)
    return {}


def _is_autoscaled(options: Mapping[str, Any]) -> bool:
    return bool(options.get("autoscaling_config")) or options.get("num_replicas") == "auto"


def _find_replicas(application: Mapping[str, Any], kind: ModelKind) -> frozenset[str] | None:
    # ApplicationState.apply_app_config (ray.serve._private, 2.60) clears the deployments.
    deployment = application["deployments"].get(DEPLOYMENTS[kind])
    if deployment is None:
        return None
    return frozenset(
        replica["replica_id"]
        for replica in deployment.get("replicas", [])
        if replica["state"] in _SERVING
    )


def _to_state(application: Mapping[str, Any], kind: ModelKind) -> State:
    """A model with a running replica is ready, even while a new version is being deployed."""
    deployment = application["deployments"].get(DEPLOYMENTS[kind], {})
    if _find_replicas(application, kind):
        return "ready"
    if application["status"] == "DEPLOY_FAILED":
        return "failed"
    if application["status"] == "RUNNING" and deployment.get("target_num_replicas") == 0:
        return "idle"
    return "starting"


def _to_message(application: Mapping[str, Any], kind: ModelKind) -> str:
    """One line of Serve's message, which contains a traceback if a constructor or `args` raised."""
    deployment = application["deployments"].get(DEPLOYMENTS[kind], {})
    messages = [deployment.get("message", ""), application.get("message", "")]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    for line in lines:
        if _SOURCE_ERROR in line:
            return str(line.partition(_SOURCE_ERROR)[2])
    if invalid := _find_invalid_arguments(lines):
        return invalid
    return "it could not be deployed; Ray Serve's log says why"


def _find_invalid_arguments(lines: list[str]) -> str | None:
    """Find pydantic's error about `args`: after its heading two lines for each key."""
    for number, line in enumerate(lines):
        if _VALIDATION_ERROR.fullmatch(line) and number + 2 < len(lines):
            key, reason = lines[number + 1 : number + 3]
            return f"args.{key}: {reason.partition(' [type=')[0]}"
    return None
