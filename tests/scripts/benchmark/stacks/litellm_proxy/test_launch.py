import ast
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmark.stacks.launch import KEY, ROOT, Model, StackError
from scripts.benchmark.stacks.litellm_proxy.environment import LOCK, LiteLlm, read_version
from scripts.benchmark.stacks.litellm_proxy.launch import LIMITS, VIRTUAL_KEY, to_config

MODEL = Model("tiny", "/models/tiny", {})
HOOK = ROOT / "scripts" / "benchmark" / "stacks" / "litellm_proxy" / "bench_auth.py"


def test_proxy_asks_the_bare_server_by_its_key():
    (model,) = to_config(MODEL, 8001, has_database=True)["model_list"]

    assert model["model_name"] == "tiny"
    assert model["litellm_params"]["api_base"] == "http://127.0.0.1:8001/v1"
    assert model["litellm_params"]["api_key"] == KEY


def test_keys_are_in_the_database_and_spend_is_written_in_groups():
    general = to_config(MODEL, 8001, has_database=True)["general_settings"]

    assert general["database_url"] == "os.environ/DATABASE_URL"
    assert general["proxy_batch_write_at"] == 60
    assert "custom_auth" not in general
    assert "disable_spend_logs" not in general


def test_without_a_database_the_hook_authenticates():
    general = to_config(MODEL, 8001, has_database=False)["general_settings"]

    assert general["custom_auth"] == f"{HOOK.stem}.authenticate"
    assert "database_url" not in general


def test_hook_gives_the_limits_of_the_virtual_key():
    """The hook runs where this project cannot be imported, so it repeats them."""
    said: dict[str, Any] = {}
    for statement in ast.parse(HOOK.read_text()).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            said[name] = statement.value

    assert ast.literal_eval(said["KEY"]) == VIRTUAL_KEY
    assert ast.literal_eval(said["LIMITS"]) == LIMITS


def test_lock_names_one_version():
    assert read_version(LOCK.read_text()).count(".") == 2


def test_lock_without_litellm_is_refused():
    with pytest.raises(StackError):
        read_version("httpx==0.28.1\n")


def test_database_client_that_cannot_be_made_is_tried_again(tmp_path: Path):
    (tmp_path / "lib/python3.11/site-packages/litellm/proxy").mkdir(parents=True)
    (tmp_path / "lib/python3.11/site-packages/litellm/proxy/schema.prisma").touch()
    program = tmp_path / "bin" / "prisma"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho no such host >&2\nexit 1\n")
    program.chmod(0o755)

    for _ in range(2):
        with pytest.raises(StackError, match="no such host"):
            LiteLlm(tmp_path).prepare_database()
