from typing import Any

import pytest

from tests.helpers.spoilt_config import (
    DIFFUSION,
    EMBEDDING,
    INGRESS,
    LEDGER,
    LLM,
    Change,
    problems,
    put,
    take,
)

LEDGER_DEPLOYMENT = "applications[4].deployments[0]"
ONE_LEDGER = "must be 1: each ledger would keep its own limits"
LLM_ENV = ("applications", LLM, "deployments", 0, "ray_actor_options", "runtime_env", "env_vars")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            put("applications", LLM, "deployments", 0, "colour", 1),
            "applications[1].deployments[0].colour: there is no such key",
        ),
        (
            put("applications", LLM, "deployments", 0, "autoscaling_config", "min_replica", 1),
            "applications[1].deployments[0].autoscaling_config.min_replica: there is no such key",
        ),
        (
            put("applications", LLM, "deployments", 0, "ray_actor_options", "num_cpu", 1),
            "applications[1].deployments[0].ray_actor_options.num_cpu: there is no such key",
        ),
    ],
)
def test_unknown_key_of_a_deployment_is_one_line_with_its_path(change: Change, line: str) -> None:
    assert problems(change) == [line]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (
            put("applications", LLM, "deployments", 0, "max_ongoing_requests", "many"),
            "applications[1].deployments[0].max_ongoing_requests",
        ),
        (
            put("applications", LLM, "deployments", 0, "autoscaling_config", "min_replicas", "one"),
            "applications[1].deployments[0].autoscaling_config.min_replicas",
        ),
        (
            put("applications", LLM, "deployments", 0, "autoscaling_config", "min_replicas", -1),
            "applications[1].deployments[0].autoscaling_config.min_replicas",
        ),
        (
            put("applications", LLM, "deployments", 0, "autoscaling_config", "max_replicas", 0),
            "applications[1].deployments[0].autoscaling_config.max_replicas",
        ),
        (
            put("applications", LLM, "deployments", 0, "ray_actor_options", "num_cpus", "one"),
            "applications[1].deployments[0].ray_actor_options.num_cpus",
        ),
    ],
)
def test_invalid_value_of_a_deployment_is_named_by_its_path(change: Change, path: str) -> None:
    found = problems(change)

    assert [line for line in found if line.startswith(f"{path}: ")] != []
    assert [line for line in found if "\n" in line] == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            put(*LLM_ENV, "OMP_NUM_THREADS", 2),
            "applications[1].deployments[0].ray_actor_options.runtime_env.env_vars.OMP_NUM_THREADS"
            ": name and value must be strings; quote them",
        ),
        (
            put("applications", LLM, "runtime_env", {"env_vars": {"HF_HUB_OFFLINE": True}}),
            "applications[1].runtime_env.env_vars.HF_HUB_OFFLINE: name and value must be strings; "
            "quote them",
        ),
        (
            put(*LLM_ENV, ["A=b"]),
            "applications[1].deployments[0].ray_actor_options.runtime_env.env_vars: "
            "must be a mapping",
        ),
        (
            put("applications", LEDGER, "deployments", 0, "num_replicas", 2),
            f"{LEDGER_DEPLOYMENT}.num_replicas: {ONE_LEDGER}",
        ),
        (
            put("applications", LEDGER, "deployments", 0, "num_replicas", "auto"),
            f"{LEDGER_DEPLOYMENT}.num_replicas: {ONE_LEDGER}",
        ),
        (
            put(
                "applications", LEDGER, "deployments", 0, "autoscaling_config", {"max_replicas": 2}
            ),
            f"{LEDGER_DEPLOYMENT}.autoscaling_config.max_replicas: {ONE_LEDGER}",
        ),
    ],
)
def test_deployment_that_cannot_start_is_one_line(change: Change, line: str) -> None:
    assert problems(change) == [line]


def test_one_ledger_replica_is_no_problem() -> None:
    assert problems(put("applications", LEDGER, "deployments", 0, "num_replicas", 1)) == []


def test_deployment_without_a_name_is_one_line() -> None:
    assert problems(take("applications", LLM, "deployments", 0, "name")) == [
        "applications[1].deployments[0].name: deployments.app:llm has one deployment, named 'LLM'"
    ]


@pytest.mark.parametrize(
    "change",
    [
        put("applications", LLM, "deployments", 3),
        put("applications", LLM, "deployments", {"name": "LLM"}),
        put("applications", LLM, "deployments", 0, "autoscaling_config", 3),
        put("applications", LLM, "deployments", 0, "ray_actor_options", "many"),
    ],
)
def test_deployment_value_of_another_type_is_a_problem_and_no_crash(change: Change) -> None:
    found = problems(change)

    assert found != []
    assert [line for line in found if line.startswith(":") or "\n" in line] == []


def test_deployment_that_stands_twice_is_one_line() -> None:
    def repeat(config: Any) -> None:
        config["applications"][LLM]["deployments"] *= 2

    assert problems(repeat) == ["applications[1].deployments: 'LLM' is listed more than once"]


@pytest.mark.parametrize(
    ("index", "import_path", "name"),
    [
        (INGRESS, "deployments.app:ingress", "Ingress"),
        (LLM, "deployments.app:llm", "LLM"),
        (EMBEDDING, "deployments.app:embedding", "Embedding"),
        (DIFFUSION, "deployments.app:diffusion", "Diffusion"),
    ],
)
def test_deployment_of_an_unknown_name_is_one_line(index: int, import_path: str, name: str) -> None:
    change = put("applications", index, "deployments", 0, "name", "Unknown")

    assert problems(change) == [
        f"applications[{index}].deployments[0].name: {import_path} has one deployment, "
        f"named '{name}'"
    ]


def test_deployment_that_is_no_mapping_is_named() -> None:
    found = problems(put("applications", LLM, "deployments", 0, "text"))

    assert "applications[1].deployments[0]: a deployment is a mapping" in found


POLICY = "applications[3].deployments[0].autoscaling_config.policy"
STEPS = "deployments.autoscaling:QueuedImageSteps"


def with_policy(policy: Any) -> Change:
    path = ("applications", DIFFUSION, "deployments", 0, "autoscaling_config", "policy")
    return put(*path, policy)


@pytest.mark.parametrize(
    "policy",
    [
        {"policy_function": STEPS},
        {"policy_function": STEPS, "policy_kwargs": {"target_steps": 1, "request_steps": 2.5}},
        {"policy_function": "ray.serve.autoscaling_policy:default_autoscaling_policy"},
    ],
)
def test_policy_that_serve_can_make_is_no_problem(policy: dict[str, Any]) -> None:
    assert problems(with_policy(policy)) == []


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        (STEPS, ": must be a mapping"),
        ({}, ".policy_function: is missing"),
        ({"policy_function": 7}, ".policy_function: must be 'module:attribute'"),
        (
            {"policy_function": "deployments.nowhere:Policy"},
            ".policy_function: module 'deployments.nowhere' cannot be imported "
            "(ModuleNotFoundError)",
        ),
        (
            {"policy_function": "deployments.autoscaling:Nothing"},
            ".policy_function: module 'deployments.autoscaling' has no 'Nothing'",
        ),
        ({"policy_function": STEPS, "colour": 1}, ".colour: there is no such key"),
        (
            {"policy_function": STEPS, "policy_kwargs": {"target_steps": 0}},
            ".policy_kwargs: target_steps must be a positive number",
        ),
        (
            {"policy_function": STEPS, "policy_kwargs": {"target": 1}},
            ".policy_kwargs: QueuedImageSteps.__init__() got an unexpected keyword argument "
            "'target'",
        ),
        (
            {
                "policy_function": "ray.serve.autoscaling_policy:default_autoscaling_policy",
                "policy_kwargs": {"target": 1},
            },
            ".policy_kwargs: 'default_autoscaling_policy' is a function, so it takes none",
        ),
    ],
)
def test_policy_that_serve_cannot_make_is_one_line(policy: Any, line: str) -> None:
    assert problems(with_policy(policy)) == [f"{POLICY}{line}"]


def test_null_policy_is_a_problem() -> None:
    (line,) = problems(with_policy(None))

    assert line.startswith(f"{POLICY}: ")
