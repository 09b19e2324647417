import copy
from typing import Any

import pytest

from deployments.check.configuration import find_problems
from deployments.config.stream_deadlines import HARD_STOP_VARIABLE
from tests.helpers.spoilt_config import (
    DIFFUSION,
    INGRESS,
    LEDGER,
    LLM,
    Change,
    problems,
    put,
    read_shipped,
    take,
)


def test_shipped_configuration_has_no_problems() -> None:
    assert list(find_problems(read_shipped())) == []


def test_application_of_another_project_is_not_checked() -> None:
    def add(config: Any) -> None:
        config["applications"].append(
            {
                "name": "other",
                "route_prefix": "/other",
                "import_path": "json:loads",
                "args": {"a": 1},
            }
        )

    assert problems(add) == []


@pytest.mark.parametrize(
    ("application", "user_config", "line"),
    [
        (INGRESS, {"limits": {"max_choices": 3}}, None),
        (LLM, {"default_max_tokens": 3, "max_waiting": 5}, None),
        (LLM, 3, ": must be a mapping"),
        (LLM, {"colour": 3}, ".colour: there is no such key"),
        (LLM, {"id": "x"}, ".id: changes with a restart only; it stands under args"),
        (
            DIFFUSION,
            {"max_waiting": -1},
            ".max_waiting: input should be greater than or equal to 0",
        ),
        (
            INGRESS,
            {"limits": {"request_timeout_s": 3000}},
            ".limits.request_timeout_s: HAProxy cuts streams 720 s after a reload; set "
            f"{HARD_STOP_VARIABLE} to 3060 or more",
        ),
    ],
)
def test_user_config_is_checked(application: int, user_config: Any, line: str | None) -> None:
    change = put("applications", application, "deployments", 0, "user_config", user_config)

    path = f"applications[{application}].deployments[0].user_config"
    assert problems(change) == ([f"{path}{line}"] if line else [])


def test_user_config_of_invalid_arguments_is_not_checked() -> None:
    def change(config: Any) -> None:
        config["applications"][LLM]["args"]["colour"] = 1
        config["applications"][LLM]["deployments"][0]["user_config"] = {"colour": 1}

    assert problems(change) == [f"applications[{LLM}].args.colour: there is no such key"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (put("colour", 1), "colour: there is no such key"),
        (put("http_options", "prot", 1), "http_options.prot: there is no such key"),
        (put("applications", LLM, "colour", 1), "applications[1].colour: there is no such key"),
        (
            put("applications", INGRESS, "args", "colour", 1),
            "applications[0].args.colour: there is no such key",
        ),
        (
            put("applications", INGRESS, "args", {"limits": {"max_body": 1}}),
            "applications[0].args.limits.max_body: there is no such key",
        ),
        (
            put("applications", INGRESS, "args", {"auth": {"keys": ["a"]}}),
            "applications[0].args.auth.keys: there is no such key",
        ),
        (
            put("applications", LLM, "args", "colour", 1),
            "applications[1].args.colour: there is no such key",
        ),
        (
            put("applications", DIFFUSION, "args", "engine", "steps", 1),
            "applications[3].args.engine.steps: there is no such key",
        ),
        (
            put("applications", LLM, "args", "engine", "max_model_length", 1),
            "applications[1].args.engine.max_model_length: vLLM has no such option",
        ),
    ],
)
def test_unknown_key_is_one_line_with_its_path(change: Change, line: str) -> None:
    assert problems(change) == [line]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (put("http_options", "port", "many"), "http_options.port"),
        (put("applications", LLM, "args", "id", 7), "applications[1].args.id"),
        (put("applications", LLM, "args", "source", ""), "applications[1].args.source"),
        (
            put("applications", LLM, "args", "stall_timeout_s", 0),
            "applications[1].args.stall_timeout_s",
        ),
        (put("applications", LLM, "args", "engine", []), "applications[1].args.engine"),
        (
            put("applications", DIFFUSION, "args", "engine", "dtype", "float8"),
            "applications[3].args.engine.dtype",
        ),
        (
            put("applications", INGRESS, "args", {"limits": {"max_images": "ten"}}),
            "applications[0].args.limits.max_images",
        ),
        (put("applications", INGRESS, "args", [1]), "applications[0].args"),
        (put("applications", LLM, "args", [1]), "applications[1].args"),
        (put("applications", LLM, "args", "text"), "applications[1].args"),
        (put("applications", LLM, "name", 7), "applications[1].name"),
    ],
)
def test_invalid_value_is_named_by_its_path(change: Change, path: str) -> None:
    found = problems(change)

    assert [line for line in found if line.startswith(f"{path}: ")] != []
    assert [line for line in found if "\n" in line] == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            put("applications", INGRESS, "route_prefix", "/ai"),
            "applications[0].route_prefix: must be /: clients request /v1/…",
        ),
        (
            put("applications", INGRESS, "route_prefix", None),
            "applications[0].route_prefix: must be /: clients request /v1/…",
        ),
        (
            put("applications", LEDGER, "args", {"database": "mysql://u:opensesame@h/d"}),
            "applications[4].args.database: a database URL begins with sqlite:/// or postgresql://",
        ),
        (
            put("applications", LEDGER, "args", {"redis": "http://u:opensesame@h"}),
            "applications[4].args.redis: a Redis URL begins with redis://, rediss:// or unix://",
        ),
    ],
)
def test_value_that_cannot_work_is_one_line(change: Change, line: str) -> None:
    assert problems(change) == [line]


@pytest.mark.parametrize(
    "change",
    [
        take("applications", INGRESS, "route_prefix"),
        put("applications", LEDGER, "args", {"database": "postgresql://h/d", "redis": "redis://h"}),
    ],
)
def test_value_that_works_is_no_problem(change: Change) -> None:
    assert problems(change) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (take("applications", LLM, "args", "id"), "applications[1].args.id: is missing"),
        (take("applications", LLM, "args", "source"), "applications[1].args.source: is missing"),
        (
            take("applications", LLM, "import_path"),
            "applications[1].import_path: must be 'module:attribute'",
        ),
    ],
)
def test_missing_key_is_one_line_with_its_path(change: Change, line: str) -> None:
    assert problems(change) == [line]


@pytest.mark.parametrize(
    ("import_path", "reason"),
    [
        ("deployments.app", "must be 'module:attribute'"),
        ("deployments.app:lllm", "module 'deployments.app' has no 'lllm'"),
        (
            "deployments.apps:llm",
            "module 'deployments.apps' cannot be imported (ModuleNotFoundError)",
        ),
        (":llm", "module '' cannot be imported (ValueError)"),
        (".app:llm", "module '.app' cannot be imported (TypeError)"),
    ],
)
def test_import_path_that_cannot_be_resolved_is_one_line(import_path: str, reason: str) -> None:
    change = put("applications", LLM, "import_path", import_path)

    assert problems(change) == [f"applications[1].import_path: {reason}"]


def test_application_with_another_name_than_its_model_is_one_line() -> None:
    change = put("applications", LLM, "args", "id", "org/model.v2")

    assert problems(change) == [
        "applications[1].name: the application of model 'org/model.v2' must be named "
        "'org--model_v2'"
    ]


@pytest.mark.parametrize(
    "change",
    [
        put("applications", LLM, "route_prefix", "/llm"),
        take("applications", LLM, "route_prefix"),  # Serve's default is "/"
    ],
)
def test_model_with_its_own_route_is_one_line(change: Change) -> None:
    assert problems(change)[0] == (
        "applications[1].route_prefix: must be null: models are reached through the ingress"
    )


def test_two_models_with_one_id_are_one_line() -> None:
    def repeat(config: Any) -> None:
        config["applications"].append(copy.deepcopy(config["applications"][LLM]))

    assert problems(repeat) == ["applications: 2 models have the id 'smollm2-135m-instruct'"]


def test_two_applications_with_one_name_are_one_line() -> None:
    (line,) = problems(put("applications", INGRESS, "name", "shapes"))

    assert line.startswith("applications: ")
    assert "shapes" in line


def test_missing_ingress_is_one_line() -> None:
    assert problems(take("applications", INGRESS)) == [
        "applications: one deployments.app:ingress is needed, not 0"
    ]


@pytest.mark.parametrize("config", [None, [], "text", 7, {}, {"applications": None}])
def test_configuration_without_applications_is_one_line(config: Any) -> None:
    assert list(find_problems(config)) == ["applications: a list of applications is needed"]


def test_application_that_is_no_mapping_is_named() -> None:
    found = problems(put("applications", LLM, "text"))

    assert "applications[1]: an application is a mapping" in found


@pytest.mark.parametrize(
    "change",
    [
        put("applications", LLM, "import_path", ["deployments.app:llm"]),
        put("applications", LLM, "import_path", None),
        put("applications", LLM, "args", "id", ["m"]),
        put("http_options", []),
        put(7, 7),
        put("applications", LLM, 7, 7),
        put("applications", LLM, "args", 7, 7),
    ],
)
def test_value_of_another_type_is_a_problem_and_no_crash(change: Change) -> None:
    found = problems(change)

    assert found != []
    assert [line for line in found if line.startswith(":") or "\n" in line] == []


def test_streams_longer_than_haproxy_lets_them_last_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(HARD_STOP_VARIABLE, raising=False)
    hour = put("applications", INGRESS, "args", {"limits": {"request_timeout_s": 3600}})

    assert problems(hour) == [
        "applications[0].args.limits.request_timeout_s: HAProxy cuts streams 720 s after a reload; "
        "set RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S to 3660 or more"
    ]


def test_deadline_is_named_once_and_its_default_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HARD_STOP_VARIABLE, "120")
    live = {"limits": {"max_choices": 3}}

    assert problems(put("applications", INGRESS, "deployments", 0, "user_config", live)) == [
        "applications[0].args.limits.request_timeout_s: HAProxy cuts streams 120 s after a reload; "
        "set RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S to 660 or more"
    ]


@pytest.mark.parametrize(("hard_stop", "count"), [("3660", 0), ("3659", 1), ("soon", 1)])
def test_time_that_haproxy_lets_streams_last_is_the_environments(
    hard_stop: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HARD_STOP_VARIABLE, hard_stop)
    hour = put("applications", INGRESS, "args", {"limits": {"request_timeout_s": 3600}})

    assert len(problems(hour)) == count
