import os
from pathlib import Path

import pytest
import yaml

from scripts.benchmark.arguments import read_plan
from scripts.benchmark.stacks.launch import Model, StackError, to_flags
from scripts.benchmark.stacks.rigs import FAKE_ENGINE_PATH, RIGS, fake_engine
from scripts.benchmark.stacks.stacks import Stack, to_variant


def test_engine_options_become_flags():
    options = {"max_model_len": 8, "enforce_eager": True, "async_scheduling": False}

    assert to_flags(options) == ["--max-model-len=8", "--enforce-eager", "--no-async-scheduling"]


def test_engine_option_with_members_becomes_json():
    assert to_flags({"additional_config": {"step_ms": 20}}) == [
        '--additional-config={"step_ms": 20}'
    ]


def test_variant_sets_variables_and_engine_options():
    text = (
        "plain:RAY_SERVE_ENABLE_HA_PROXY=0,engine.disable_log_stats=true,"
        "ingress_replicas=2,tenancy=off"
    )

    variant = to_variant(text, {"A": "1"}, 1)

    assert variant == Stack(
        "plain",
        env={"A": "1", "RAY_SERVE_ENABLE_HA_PROXY": "0"},
        engine={"disable_log_stats": True},
        ingress_replicas=2,
        has_tenancy=False,
    )


@pytest.mark.parametrize("text", ["", "name", "name:", "name:KEY", ":A=1", "name:checkout=/no"])
def test_variant_of_another_form_is_refused(text: str):
    with pytest.raises(ValueError, match=r"is no"):
        to_variant(text, {}, 1)


@pytest.mark.parametrize("program", ["scripts/service/run_service.py", "scripts/run_service.py"])
def test_variant_runs_a_checkout_of_the_present_or_the_old_layout(tmp_path: Path, program: str):
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    (checkout / program).parent.mkdir(parents=True)
    (checkout / program).touch()
    home.mkdir()
    variant = to_variant(f"before:checkout={checkout},tenancy=off", {}, 1)

    launch = variant.launch(Model("m", "fake:", {}), home, 8001)

    assert launch.command[1:] == [
        str(checkout / program),
        "--config",
        str(home / "config.yaml"),
    ]
    assert launch.cwd == checkout
    assert launch.env["PYTHONPATH"].split(os.pathsep) == [str(checkout), str(FAKE_ENGINE_PATH)]


@pytest.mark.parametrize("kind", ["vllm", "ray-llm", "ray-llm-direct"])
def test_every_stack_finds_the_fake_engine(tmp_path: Path, kind: str):
    launch = Stack(kind, kind).launch(Model("m", "/m", {}), tmp_path, 8001)

    assert launch.env["PYTHONPATH"] == str(FAKE_ENGINE_PATH)


def test_direct_streaming_is_asked_for_and_its_ingress_has_no_options(tmp_path: Path):
    launch = Stack("ray-llm-direct", "ray-llm-direct").launch(Model("m", "/m", {}), tmp_path, 8001)

    (application,) = yaml.safe_load((tmp_path / "config.yaml").read_text())["applications"]
    assert list(application["args"]) == ["llm_configs"]
    assert launch.env["RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING"] == "1"
    assert launch.env["RAY_SERVE_ENABLE_HA_PROXY"] == "1"


def test_stack_that_would_ignore_the_fake_engine_is_refused(tmp_path: Path):
    with pytest.raises(StackError, match="fake engine"):
        Stack("ray-llm", "ray-llm").launch(Model("m", "/m", fake_engine(20)), tmp_path, 8001)


def test_default_settings_have_no_direct_streaming(tmp_path: Path):
    launch = Stack("ray-llm", "ray-llm").launch(Model("m", "/m", {}), tmp_path, 8001)

    assert "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING" not in launch.env


@pytest.mark.parametrize("concurrency", [1, 16, 64, 256])
def test_every_worker_sends_two_requests(concurrency: int):
    assert RIGS["serving"].requests(concurrency) >= 2 * concurrency


@pytest.mark.parametrize(
    "arguments",
    [
        ["--stacks", "none"],
        ["--concurrency", "1,x"],
        ["--url", "http://x/v1"],
        ["--env", "A"],
        ["--rounds", "0"],
        ["--peers", "encode,none"],
    ],
)
def test_mistake_ends_with_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        read_plan(arguments)

    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
