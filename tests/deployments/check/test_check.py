import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.check.__main__ import main
from deployments.check.configuration import find_problems

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "serve_config.yaml"


def shipped() -> Any:
    return yaml.safe_load(SHIPPED.read_text())


INGRESS, LLM, EMBEDDING, DIFFUSION, LEDGER = range(5)


def problems(change: Callable[[Any], None]) -> list[str]:
    """What is wrong once `change` has spoilt the shipped configuration; each line counts once."""
    config = shipped()
    change(config)
    return list(dict.fromkeys(find_problems(config)))


def put(*path: Any) -> Callable[[Any], None]:
    """Set the value at a path: `put("applications", 0, "name", "x")`."""
    *way, key, value = path

    def change(config: Any) -> None:
        for step in way:
            config = config[step]
        config[key] = value

    return change


def take(*path: Any) -> Callable[[Any], None]:
    *way, key = path

    def change(config: Any) -> None:
        for step in way:
            config = config[step]
        del config[key]

    return change


def test_shipped_configuration_is_clean() -> None:
    assert list(find_problems(shipped())) == []


def test_applications_of_others_are_let_be() -> None:
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


def test_fake_source_does_not_take_the_options_of_vllm() -> None:
    def fake(config: Any) -> None:
        config["applications"][LLM]["args"].update(source="fake:", engine={"tokens_per_s": 10})

    assert problems(fake) == []


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
def test_wrong_key_is_one_line_with_its_path(change: Callable[[Any], None], line: str) -> None:
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
        (put("applications", LLM, "name", 7), "applications[1].name"),
    ],
)
def test_wrong_value_is_named_by_its_path(change: Callable[[Any], None], path: str) -> None:
    found = problems(change)

    assert [line for line in found if line.startswith(f"{path}: ")] != []
    assert [line for line in found if "\n" in line] == []


LEDGER_DEPLOYMENT = "applications[4].deployments[0]"
ONE_LEDGER = "must be 1, since each ledger would keep limits of its own"
LLM_ENV = ("applications", LLM, "deployments", 0, "ray_actor_options", "runtime_env", "env_vars")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            put(*LLM_ENV, "OMP_NUM_THREADS", 2),
            "applications[1].deployments[0].ray_actor_options.runtime_env.env_vars.OMP_NUM_THREADS"
            ": name and value must be texts; put them in quotes",
        ),
        (
            put("applications", LLM, "runtime_env", {"env_vars": {"HF_HUB_OFFLINE": True}}),
            "applications[1].runtime_env.env_vars.HF_HUB_OFFLINE: name and value must be texts; "
            "put them in quotes",
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
        (
            put("applications", INGRESS, "route_prefix", "/ai"),
            "applications[0].route_prefix: must be /, since clients ask for /v1/…",
        ),
        (
            put("applications", INGRESS, "route_prefix", None),
            "applications[0].route_prefix: must be /, since clients ask for /v1/…",
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
def test_what_cannot_work_is_one_line(change: Callable[[Any], None], line: str) -> None:
    assert problems(change) == [line]


@pytest.mark.parametrize(
    "change",
    [
        take("applications", INGRESS, "route_prefix"),  # Serve's default is "/"
        put("applications", LEDGER, "deployments", 0, "num_replicas", 1),
        put("applications", LEDGER, "args", {"database": "postgresql://h/d", "redis": "redis://h"}),
    ],
)
def test_what_works_is_no_problem(change: Callable[[Any], None]) -> None:
    assert problems(change) == []


def test_a_deployment_that_is_there_twice_is_one_line() -> None:
    def repeat(config: Any) -> None:
        config["applications"][LLM]["deployments"] *= 2

    assert problems(repeat) == ["applications[1].deployments: 'LLM' stands there more than once"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (take("applications", LLM, "args", "id"), "applications[1].args.id: is missing"),
        (take("applications", LLM, "args", "source"), "applications[1].args.source: is missing"),
        (
            take("applications", LLM, "import_path"),
            "applications[1].import_path: must be 'module:attribute'",
        ),
        (
            take("applications", LLM, "deployments", 0, "name"),
            "applications[1].deployments[0].name: deployments.app:llm has one deployment, "
            "named 'LLM'",
        ),
    ],
)
def test_missing_key_is_one_line_with_its_path(change: Callable[[Any], None], line: str) -> None:
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
def test_import_path_that_leads_nowhere_is_one_line(import_path: str, reason: str) -> None:
    change = put("applications", LLM, "import_path", import_path)

    assert problems(change) == [f"applications[1].import_path: {reason}"]


@pytest.mark.parametrize(
    ("index", "import_path", "name"),
    [
        (INGRESS, "deployments.app:ingress", "Ingress"),
        (LLM, "deployments.app:llm", "LLM"),
        (EMBEDDING, "deployments.app:embedding", "Embedding"),
        (DIFFUSION, "deployments.app:diffusion", "Diffusion"),
    ],
)
def test_deployment_that_does_not_exist_is_one_line(
    index: int, import_path: str, name: str
) -> None:
    change = put("applications", index, "deployments", 0, "name", "Nobody")

    assert problems(change) == [
        f"applications[{index}].deployments[0].name: {import_path} has one deployment, "
        f"named '{name}'"
    ]


def test_option_that_vllm_does_not_have_is_named_for_encoders_too() -> None:
    def change(config: Any) -> None:
        paths = [each["import_path"] for each in config["applications"]]
        encoder = config["applications"][paths.index("deployments.app:embedding")]
        encoder["args"] |= {"runner": "vllm", "vllm": {"max_model_length": 1}}

    (problem,) = problems(change)

    assert problem.endswith(".args.vllm.max_model_length: vLLM has no such option")


POLICY = "applications[3].deployments[0].autoscaling_config.policy"
STEPS = "deployments.autoscaling:QueuedImageSteps"


def with_policy(policy: Any) -> Callable[[Any], None]:
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
            ".policy_kwargs: 'default_autoscaling_policy' is a function, which Serve gives none",
        ),
    ],
)
def test_policy_that_serve_cannot_make_is_one_line(policy: Any, line: str) -> None:
    assert problems(with_policy(policy)) == [f"{POLICY}{line}"]


def test_policy_of_nothing_is_a_problem() -> None:
    (line,) = problems(with_policy(None))

    assert line.startswith(f"{POLICY}: ")


def test_application_named_otherwise_than_its_model_is_one_line() -> None:
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
def test_model_with_a_route_of_its_own_is_refused(change: Callable[[Any], None]) -> None:
    assert problems(change)[0] == (
        "applications[1].route_prefix: must be null, since a model is reached through the ingress"
    )


def test_two_models_with_one_id_are_one_line() -> None:
    def repeat(config: Any) -> None:
        config["applications"].append(copy.deepcopy(config["applications"][LLM]))

    assert problems(repeat) == ["applications: 2 models have the id 'smollm2-135m-instruct'"]


def test_two_applications_with_one_name_are_one_line() -> None:
    (line,) = problems(put("applications", INGRESS, "name", "shapes"))

    assert line.startswith("applications: ")
    assert "shapes" in line


def test_no_ingress_is_one_line() -> None:
    assert problems(take("applications", INGRESS)) == [
        "applications: one deployments.app:ingress is needed, not 0"
    ]


@pytest.mark.parametrize("config", [None, [], "text", 7, {}, {"applications": None}])
def test_configuration_without_applications_is_one_line(config: Any) -> None:
    assert list(find_problems(config)) == ["applications: a list of applications is needed"]


def test_application_that_is_no_mapping_is_named() -> None:
    found = problems(put("applications", LLM, "text"))

    assert "applications[1]: an application is a mapping" in found


def test_deployment_that_is_no_mapping_is_named() -> None:
    found = problems(put("applications", LLM, "deployments", 0, "text"))

    assert "applications[1].deployments[0]: a deployment is a mapping" in found


@pytest.mark.parametrize(
    "change",
    [
        put("applications", LLM, "deployments", 3),
        put("applications", LLM, "deployments", {"name": "LLM"}),
        put("applications", LLM, "import_path", ["deployments.app:llm"]),
        put("applications", LLM, "import_path", None),
        put("applications", LLM, "args", "id", ["m"]),
        put("applications", LLM, "deployments", 0, "autoscaling_config", 3),
        put("applications", LLM, "deployments", 0, "ray_actor_options", "many"),
        put("http_options", []),
        put(7, 7),
        put("applications", LLM, 7, 7),
        put("applications", LLM, "args", 7, 7),
    ],
)
def test_value_of_a_quite_other_type_is_a_problem_and_no_crash(
    change: Callable[[Any], None],
) -> None:
    found = problems(change)

    assert found != []
    assert [line for line in found if line.startswith(":") or "\n" in line] == []


def test_clean_file_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SHIPPED)]) == 0
    assert capsys.readouterr() == ("", "")


def test_problems_are_status_1_and_a_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = shipped()
    config["colour"] = 1
    config["applications"][LLM]["args"]["colour"] = 1
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))

    assert main([str(file)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "colour: there is no such key",
        "applications[1].args.colour: there is no such key",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: [1", "not YAML"),
        (b"a:\n\t- b", "not YAML"),
        (b"a: \xff", "not YAML"),
        (b"a: !!python/object:os.system {}", "not YAML"),
        (b"[" * 5000 + b"]" * 5000, "nested too deeply"),
    ],
)
def test_file_that_is_no_yaml_is_one_line(
    content: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)

    assert main([str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{file}: {reason}")


def test_key_that_stands_twice_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    text = SHIPPED.read_text()
    file.write_text(text.replace("    args: {}\n", "    args: {}\n    args: {}\n", 1))

    assert main([str(file)]) == 1
    assert capsys.readouterr().err == "args: stands 2 times in one mapping, last in line 11\n"


def test_key_that_overrides_a_merged_one_is_no_problem(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    cpus = "ray_actor_options: {num_cpus: 0.2}"
    text = SHIPPED.read_text().replace(cpus, "ray_actor_options: &own {num_cpus: 0.2}", 1)
    file.write_text(text.replace(cpus, "ray_actor_options: {<<: *own, num_cpus: 0.3}", 1))

    assert "<<: *own" in file.read_text()
    assert main([str(file)]) == 0


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_file_that_cannot_be_read_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / name)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_wrong_use_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: ")


def test_ray_is_not_started() -> None:
    """In a process of its own, because another test may have started it."""
    code = (
        "import sys; from deployments.check.__main__ import main; status = main(sys.argv[1:]);"
        "import ray; print(status, ray.is_initialized(), 'torch' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(SHIPPED)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["0", "False", "False"]
