from dataclasses import replace
from typing import Any

import pytest

from deployments.discovery import (
    DEPLOYMENTS,
    KINDS,
    DiscoveredModel,
    find_ledger_application,
    find_nodes,
    keep_version,
    pack_details,
    to_models,
    unpack_details,
)

REASON = "model 'm': source './gone' cannot be loaded: there is no such folder"

TRACEBACK = f"""The deployment failed to start 3 times in a row.
ray::ServeReplica:m:LLM.initialize_and_get_metadata() (pid=1, ip=127.0.0.1)
  File "/srv/triptych/deployments/loading.py", line 31, in load_engine
    return _load(args, build)
deployments.engines.sources.SourceError: {REASON}

The above exception was the direct cause of the following exception:

ray::ServeReplica:m:LLM.initialize_and_get_metadata() (pid=1, ip=127.0.0.1)
RuntimeError: Traceback (most recent call last):
"""


def application(
    status: str = "RUNNING",
    replicas: tuple[str, ...] = ("RUNNING",),
    *,
    import_path: str = "deployments.app:llm",
    **deployment: Any,
) -> dict[str, Any]:
    """The members of `ServeInstanceDetails` (Ray 2.60) that we read, for one model."""
    name = DEPLOYMENTS[KINDS.get(import_path, "llm")]
    return {
        "name": "m",
        "status": status,
        "message": "",
        "last_deployed_time_s": 1_700_000_000.75,
        "deployed_app_config": {"name": "m", "import_path": import_path, "args": {"id": "org/m"}},
        "deployments": {
            name: {
                "name": name,
                "status": "HEALTHY",
                "message": "",
                "target_num_replicas": len(replicas),
                "replicas": [
                    {"state": state, "replica_id": f"replica-{number}"}
                    for number, state in enumerate(replicas)
                ],
                **deployment,
            }
        },
    }


def models(*applications: dict[str, Any]) -> list[DiscoveredModel]:
    named = {f"app{number}": each for number, each in enumerate(applications)}
    return list(to_models({"applications": named}))


def test_running_model_is_ready() -> None:
    assert models(application()) == [
        DiscoveredModel(
            "app0",
            "org/m",
            "llm",
            "ready",
            None,
            1_700_000_000,
            {"id": "org/m"},
            replicas=frozenset({"replica-0"}),
        )
    ]


def test_replicas_are_those_that_run() -> None:
    [model] = models(application(replicas=("STARTING", "RUNNING", "STOPPING", "RUNNING")))
    assert model.replicas == {"replica-1", "replica-3"}


@pytest.mark.parametrize(
    ("import_path", "kind"),
    [
        ("deployments.app:llm", "llm"),
        ("deployments.app:embedding", "embedding"),
        ("deployments.app:diffusion", "diffusion"),
    ],
)
def test_kind_follows_the_import_path(import_path: str, kind: str) -> None:
    (model,) = models(application(import_path=import_path))

    assert (model.kind, model.state) == (kind, "ready")


@pytest.mark.parametrize(
    ("status", "replicas", "state"),
    [
        ("RUNNING", ("RUNNING",), "ready"),
        ("RUNNING", ("STARTING", "RUNNING"), "ready"),
        ("DEPLOYING", ("RUNNING", "STOPPING"), "ready"),
        ("UNHEALTHY", ("RUNNING",), "ready"),
        ("DEPLOY_FAILED", ("RUNNING",), "ready"),
        ("DEPLOYING", (), "starting"),
        ("DEPLOYING", ("STARTING",), "starting"),
        ("DEPLOYING", ("UPDATING",), "ready"),
        ("DEPLOYING", ("RECOVERING",), "starting"),
        ("NOT_STARTED", (), "starting"),
        ("UNHEALTHY", ("STARTING",), "starting"),
        ("UNHEALTHY", ("STOPPING",), "starting"),
        ("RUNNING", ("STOPPING",), "starting"),
        ("DEPLOY_FAILED", (), "failed"),
        ("DEPLOY_FAILED", ("STARTING",), "failed"),
    ],
)
def test_state_follows_status_and_replicas(
    status: str, replicas: tuple[str, ...], state: str
) -> None:
    (model,) = models(application(status, replicas))

    assert model.state == state


def test_model_scaled_to_zero_is_idle() -> None:
    (model,) = models(application("RUNNING", (), target_num_replicas=0))

    assert (model.state, model.message) == ("idle", None)


def test_model_without_its_deployment_yet_is_starting() -> None:
    (model,) = models({**application("DEPLOYING"), "deployments": {}})

    assert model.state == "starting"


def test_failed_model_without_deployment_is_failed() -> None:
    (model,) = models({**application("DEPLOY_FAILED"), "deployments": {}})

    assert model.state == "failed"


def test_reason_of_a_failure_is_the_source_error_in_the_traceback() -> None:
    (model,) = models(application("DEPLOY_FAILED", (), message=TRACEBACK))

    assert model.message == REASON


def test_reason_may_be_in_the_message_of_the_application() -> None:
    failed = {**application("DEPLOY_FAILED", ()), "message": TRACEBACK}

    assert [model.message for model in models(failed)] == [REASON]


@pytest.mark.parametrize("message", ["", "Traceback:\n  File \"/srv/secret.py\"\nKeyError: 'x'"])
def test_other_reasons_are_not_shown(message: str) -> None:
    (model,) = models(application("DEPLOY_FAILED", (), message=message))

    assert model.message == "it could not be deployed; Ray Serve's log says why"


def test_invalid_arguments_are_named_without_their_values() -> None:
    message = """Deploying app 'm' failed with exception:
Traceback (most recent call last):
  File "/srv/triptych/ray/serve/_private/application_state.py", line 1, in build
pydantic_core._pydantic_core.ValidationError: 2 validation errors for LlmArgs
tool_call_parsr
  Extra inputs are not permitted [type=extra_forbidden, input_value='secret', input_type=str]
    For further information visit https://errors.pydantic.dev/2.12/v/extra_forbidden
max_waiting
  Input should be greater than 0 [type=greater_than, input_value=0, input_type=int]
"""

    (model,) = models({**application("DEPLOY_FAILED"), "deployments": {}, "message": message})

    assert model.message == "args.tool_call_parsr: Extra inputs are not permitted"


def test_running_model_whose_new_version_failed_says_why() -> None:
    (model,) = models(application("DEPLOY_FAILED", message=TRACEBACK))

    assert (model.state, model.message) == ("ready", REASON)


def test_model_that_is_not_failed_has_no_message() -> None:
    (model,) = models(application("DEPLOYING", ("STARTING",), message=TRACEBACK))

    assert model.message is None


def test_model_that_is_being_deleted_is_not_listed() -> None:
    assert models(application("DELETING")) == []


@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        {"import_path": "deployments.app:ingress", "args": {}},
        {"import_path": "other.package:app", "args": {"id": "m"}},
        {"import_path": "deployments.app:llm"},
        {"import_path": "deployments.app:llm", "args": None},
    ],
)
def test_application_that_is_not_a_model_is_not_listed(config: Any) -> None:
    assert models({**application(), "deployed_app_config": config}) == []


def test_order_is_that_of_the_configuration() -> None:
    others = application(import_path="deployments.app:embedding"), application("DELETING")

    assert [model.application for model in models(application(), *others, application())] == [
        "app0",
        "app1",
        "app3",
    ]


def test_no_applications_give_no_models() -> None:
    assert models() == []


@pytest.mark.parametrize("time_s", [None, 0])
def test_time_of_deployment_may_be_unknown(time_s: float | None) -> None:
    (model,) = models({**application(), "last_deployed_time_s": time_s})

    assert model.deployed_at_s == 0


def test_names_that_we_read_exist_in_serve() -> None:
    """Checks the hand-written dicts above against the installed version."""
    from ray.serve._private.common import ReplicaState
    from ray.serve.schema import (
        ApplicationDetails,
        ApplicationStatus,
        DeploymentDetails,
        ReplicaDetails,
    )

    assert {"status", "message", "last_deployed_time_s", "deployed_app_config", "deployments"} <= (
        ApplicationDetails.model_fields.keys()
    )
    assert {"message", "target_num_replicas", "replicas"} <= DeploymentDetails.model_fields.keys()
    assert "state" in ReplicaDetails.model_fields
    assert {"RUNNING", "DEPLOY_FAILED", "DELETING"} <= set(ApplicationStatus.__members__)
    assert ReplicaState.RUNNING.value == "RUNNING"


def version(
    status: str = "RUNNING",
    replicas: tuple[str, ...] | None = ("RUNNING",),
    deployed_s: int = 2,
    **args: Any,
) -> DiscoveredModel:
    """A model as Serve describes it; without `replicas` it does not describe the deployment."""
    described = application(status, replicas or ())
    described["deployed_app_config"]["args"] |= args
    described["last_deployed_time_s"] = deployed_s
    if replicas is None:
        described["deployments"] = {}
    (model,) = models(described)
    return model


BEFORE = version(deployed_s=1, adapters=["a"])


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("DEPLOYING", None),
        ("DEPLOY_FAILED", "it could not be deployed; Ray Serve's log says why"),
    ],
)
def test_version_goes_on_while_serve_does_not_describe_its_replicas(
    status: str, message: str | None
) -> None:
    kept = keep_version(version(status, None, adapters=["b"]), BEFORE)

    assert kept == replace(BEFORE, is_settled=False, message=message)


def test_version_is_kept_however_often_serve_is_asked() -> None:
    kept = BEFORE
    for _ in range(3):
        kept = keep_version(version("DEPLOYING", None), kept)

    assert kept.state == "ready"
    assert keep_version(version(), kept) == version()


def test_idle_model_stays_idle_while_serve_does_not_describe_it() -> None:
    before = replace(BEFORE, state="idle")

    assert keep_version(version("DEPLOYING", None), before).state == "idle"


@pytest.mark.parametrize("state", ["starting", "failed"])
def test_model_that_did_not_serve_before_is_not_kept(state: Any) -> None:
    before = replace(BEFORE, state=state)

    assert keep_version(version("DEPLOYING", None), before).state == "starting"


def test_arguments_are_those_of_the_replicas_that_run() -> None:
    mixed = version("DEPLOYING", ("RUNNING", "RUNNING"), adapters=["b"])

    kept = keep_version(mixed, BEFORE)

    assert kept.args == BEFORE.args
    assert kept.deployed_at_s == BEFORE.deployed_at_s
    assert kept.replicas == {"replica-0", "replica-1"}


def test_capabilities_are_those_of_the_replicas_that_run() -> None:
    before = replace(BEFORE, capabilities={"max_tokens": 1})
    new = replace(version("DEPLOYING", adapters=["b"]), capabilities={"max_tokens": 2})

    assert keep_version(new, before).capabilities == {"max_tokens": 1}
    assert keep_version(replace(new, is_settled=True), before).capabilities == {"max_tokens": 2}


def test_arguments_are_new_once_no_replica_of_the_version_before_runs() -> None:
    new = replace(version("DEPLOYING", adapters=["b"]), replicas=frozenset({"replica-7"}))

    assert keep_version(new, BEFORE) == new


def test_arguments_are_new_once_the_version_is_deployed() -> None:
    new = version("RUNNING", adapters=["b"])

    assert keep_version(new, BEFORE) == new


@pytest.mark.parametrize("changed", [{"id": "other"}, {"kind": "embedding"}])
def test_other_model_in_the_same_application_is_not_kept(changed: dict[str, Any]) -> None:
    new = replace(version("DEPLOYING", None), **changed)

    assert keep_version(new, BEFORE) == new


def test_new_model_is_described_as_it_is() -> None:
    new = version("DEPLOYING", None)

    assert keep_version(new, None) == new


def test_packed_details_say_the_same() -> None:
    details = {
        "applications": {
            "z": application(node_id="x"),
            "failed": application("DEPLOY_FAILED", (), message=TRACEBACK),
            "ledger": application(import_path="deployments.app:ledger"),
        },
        "controller_info": {},
    }
    details["applications"]["z"]["deployed_app_config"]["deployments"] = [
        {"name": "LLM", "num_replicas": "auto", "user_config": {"default_max_tokens": 5}}
    ]
    details["applications"]["z"]["capabilities"] = {"max_tokens": 7}

    unpacked = unpack_details(pack_details(details))

    assert list(unpacked["applications"]) == ["z", "failed", "ledger"]
    assert list(to_models(unpacked)) == list(to_models(details))
    assert find_ledger_application(unpacked) == find_ledger_application(details) == "ledger"
    assert find_nodes(unpacked) == find_nodes(details)
    assert pack_details(unpacked) == pack_details(details)


def test_packed_details_have_no_arguments_of_other_applications() -> None:
    ledger = application(import_path="deployments.app:ledger")
    ledger["deployed_app_config"]["args"] = {"database": "postgresql://secret"}

    unpacked = unpack_details(pack_details({"applications": {"ledger": ledger}}))

    assert "secret" not in str(unpacked)
