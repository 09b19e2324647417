"""A look with a recorded answer of Serve and a store in a dict."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deployments.config.embedding import EmbeddingArgs
from deployments.config.llm import LlmArgs
from deployments.serve_look import ServeLook, pack_capabilities, to_key
from tests.helpers.cluster_store import DictStore

ARGS = {"id": "m", "source": "fake:"}
KEY_IN_A_PROCESS = """
from deployments.config.llm import LlmArgs
from deployments.serve_look import to_key
options = ["enable_thinking", "a", "b", "c"]
print(to_key(LlmArgs(id="m", source="fake:", template_options=options)))
"""


def application(path: str = "deployments.app:llm", **args: Any) -> dict[str, Any]:
    config = {"import_path": path, "args": {**ARGS, **args}}
    return {"status": "RUNNING", "deployed_app_config": config, "deployments": {}}


class Setup:
    """What Serve runs, what models have written, and a look at both."""

    def __init__(self, **applications: Any) -> None:
        self.applications = applications
        self.store = DictStore()
        self._look = ServeLook(self._fetch_details, self.store)

    async def _fetch_details(self) -> Mapping[str, Any]:
        return {"applications": self.applications}

    def write(self, capabilities: Mapping[str, Any], **args: Any) -> None:
        key = to_key(LlmArgs.model_validate({**ARGS, **args}))
        self.store.values[key] = pack_capabilities(capabilities)

    async def look(self) -> dict[str, Any]:
        """The capabilities of each application."""
        details = await self._look.fetch()
        return {name: each["capabilities"] for name, each in details["applications"].items()}


async def test_loaded_models_have_capabilities() -> None:
    setup = Setup(a=application(), b=application(id="b"), ledger=application("deployments.app:x"))
    setup.write({"max_tokens": 7})

    assert await setup.look() == {"a": {"max_tokens": 7}, "b": {}, "ledger": {}}


async def test_capabilities_of_all_models_are_read_by_one_call() -> None:
    setup = Setup(**{f"m{n}": application(id=f"m{n}") for n in range(200)})

    await setup.look()

    assert setup.store.calls == [("get_many", "200")]


async def test_without_models_the_store_is_not_read() -> None:
    setup = Setup(ledger={"status": "RUNNING", "deployed_app_config": None, "deployments": {}})

    await setup.look()

    assert setup.store.calls == []


async def test_other_version_of_a_model_replaces_nothing() -> None:
    """It may have loaded on one node and failed on another; then the one before is deployed."""
    setup = Setup(a=application())
    setup.write({"max_tokens": 7})
    setup.write({"max_tokens": 8}, engine={"max_model_len": 8})
    before = await setup.look()
    setup.applications = {"a": application(engine={"max_model_len": 8})}

    assert (before, await setup.look()) == ({"a": {"max_tokens": 7}}, {"a": {"max_tokens": 8}})


async def test_invalid_arguments_have_no_capabilities() -> None:
    setup = Setup(a=application(colour=1), b=application())
    setup.write({"max_tokens": 7})

    assert await setup.look() == {"a": {}, "b": {"max_tokens": 7}}


async def test_lost_store_leaves_what_was_known(caplog: pytest.LogCaptureFixture) -> None:
    setup = Setup(a=application())
    setup.write({"max_tokens": 7})
    await setup.look()
    setup.store.is_down = True

    assert await setup.look() == {"a": {"max_tokens": 7}}
    assert "stay as they were" in caplog.text


async def test_type_of_a_library_does_not_keep_a_model_from_serving() -> None:
    setup = Setup(a=application())
    setup.write({"folder": Path("/weights")})

    assert await setup.look() == {"a": {"folder": "/weights"}}


def test_kinds_of_models_do_not_share_a_key() -> None:
    assert to_key(EmbeddingArgs(id="m", source="fake:")) != to_key(LlmArgs(id="m", source="fake:"))


def test_key_takes_any_names_of_engine_options_in_any_order() -> None:
    """YAML's names may be numbers, and JSON makes text of them."""
    options = {"b": {1: 2, "x": 3}, "a": None}
    as_json = {"a": None, "b": {"x": 3, "1": 2}}

    assert to_key(LlmArgs(id="m", source="fake:", engine=options)) == to_key(
        LlmArgs(id="m", source="fake:", engine=as_json)
    )


def test_key_is_the_same_in_every_process() -> None:
    """A set has another order in each."""
    keys = {
        subprocess.run(
            [sys.executable, "-c", KEY_IN_A_PROCESS],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(keys) == 1
