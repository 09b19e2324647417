"""The watcher against a fake cluster; no Ray is started."""

import errno
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import zmq

from api.ports.text import Generation, Sampling
from api.registry import Backend, ModelEntry, Models
from deployments.discovery import DEPLOYMENTS, KINDS, LEDGER_PATH
from deployments.ingress.handles import DiffusionHandle, EmbeddingHandle, LlmHandle
from deployments.ingress.model_watcher import ModelWatcher
from deployments.transport.request_channel import RequestSender
from deployments.transport.token_channel import Receiver
from tests.helpers.handles import FakeHandle, FakeMethod
from tests.helpers.token_channel import UNMERGED

HERE, THERE = "node-1", "node-2"
LEDGER_APPLICATION = {
    "status": "RUNNING",
    "deployed_app_config": {"import_path": LEDGER_PATH},
    "deployments": {},
}


def application(
    kind: str = "llm", node: str = HERE, user_config: Any = None, **args: Any
) -> dict[str, Any]:
    """What Serve says about one running model; see tests/deployments/test_discovery.py."""
    path = f"deployments.app:{kind}"
    return {
        "status": "RUNNING",
        "last_deployed_time_s": 1.0,
        "deployed_app_config": {
            "import_path": path,
            "args": {"id": "m", "source": "fake:", **args},
            "deployments": [{"name": DEPLOYMENTS[KINDS[path]], "user_config": user_config}],
        },
        "deployments": {
            DEPLOYMENTS[KINDS[path]]: {
                "replicas": [{"state": "RUNNING", "node_id": node, "replica_id": "r"}]
            }
        },
    }


class FakeCluster:
    """Serve with the applications that a test gives it."""

    node_id = HERE

    def __init__(self, **applications: Any) -> None:
        self.applications = applications
        self.handles: list[tuple[str, str]] = []
        self.error: Exception | None = None

    async def fetch_details(self) -> Mapping[str, Any]:
        if self.error is not None:
            raise self.error
        return {"applications": self.applications}

    def get_handle(self, deployment: str, application: str) -> Any:
        self.handles.append((deployment, application))
        return FakeHandle(FakeMethod())

    def get_address(self) -> str:
        return "10.0.0.1"


class FakeReceiver:
    """Records where it listens."""

    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.errors: Iterator[Exception] = iter(())

    def listen_at(self, host: str) -> None:
        self.hosts.append(host)
        for error in self.errors:
            raise error


class FakeSender:
    """Stands for the sender of requests; no lease is ever idle here."""


class Setup:
    """A watcher and what it works on."""

    def __init__(self, **applications: Any) -> None:
        self.cluster = FakeCluster(**applications)
        self.receiver: Any = FakeReceiver()
        self.models = Models()
        self.watcher = ModelWatcher(self.models, self.receiver, FakeSender(), self.cluster)

    @property
    def entry(self) -> ModelEntry:
        """The entry of model `m`."""
        entry = self.models.current.find("m")
        assert entry is not None
        return entry

    @property
    def backend(self) -> Backend:
        """The backend of model `m`."""
        return self.entry.backend

    @property
    def ids(self) -> list[str]:
        return [entry.id for entry in self.models.current]


async def test_refresh_swaps_in_the_models_that_serve_has() -> None:
    setup = Setup(a=application(id="a"), ledger=LEDGER_APPLICATION, b=application("embedding"))
    was_known = setup.models.is_known

    await setup.watcher.refresh()

    assert not was_known
    assert setup.models.is_known
    assert setup.ids == ["a", "m"]


@pytest.mark.parametrize(
    ("kind", "backend"),
    [("llm", LlmHandle), ("embedding", EmbeddingHandle), ("diffusion", DiffusionHandle)],
)
async def test_backend_fits_the_kind_of_model(kind: str, backend: type) -> None:
    setup = Setup(a=application(kind))

    await setup.watcher.refresh()

    assert type(setup.backend) is backend


async def test_backend_is_kept_between_refreshes() -> None:
    setup = Setup(a=application("embedding"))
    await setup.watcher.refresh()
    before = setup.backend

    await setup.watcher.refresh()

    assert setup.backend is before


async def test_handle_is_made_for_the_first_request_of_a_model() -> None:
    cluster = FakeCluster(**{f"a{n}": application(id=f"m{n}") for n in range(200)})
    models, receiver, sender = Models(), Receiver(settings=UNMERGED), RequestSender()
    watcher = ModelWatcher(models, receiver, sender, cluster)
    for _ in range(2):
        await watcher.refresh()
    before = list(cluster.handles)

    backend: Any = models.current.get_llm("m7").backend
    for _ in range(2):
        await backend.stream(Generation("r", ("Once",), Sampling())).aclose()

    assert (before, cluster.handles) == ([], [("LLM", "a7")])
    watcher.shut_down()
    sender.shut_down()
    receiver.shut_down()


@pytest.mark.parametrize(
    ("options", "handles"),
    [
        ({"autoscaling_config": {"min_replicas": 1}}, [("LLM", "a")]),
        ({"num_replicas": "auto"}, [("LLM", "a")]),
        ({"num_replicas": 2, "autoscaling_config": None}, []),
    ],
)
async def test_handle_of_a_ready_model_that_is_autoscaled_is_made_before_its_requests(
    options: dict[str, Any], handles: list[tuple[str, str]]
) -> None:
    """Requests that wait for a new handle to know the replicas would start further replicas."""
    setup = Setup(a=application())
    setup.cluster.applications["a"]["deployed_app_config"]["deployments"][0] |= options

    await setup.watcher.refresh()

    assert setup.cluster.handles == handles


async def test_handle_of_a_model_at_zero_is_made_for_its_first_request() -> None:
    setup = Setup(a=application())
    options = setup.cluster.applications["a"]["deployed_app_config"]["deployments"][0]
    options["autoscaling_config"] = {"min_replicas": 0}
    setup.cluster.applications["a"]["deployments"]["LLM"] = {"target_num_replicas": 0}

    await setup.watcher.refresh()

    assert (setup.entry.state, setup.cluster.handles) == ("idle", [])


async def test_removed_model_is_gone_and_gets_a_new_backend_when_it_returns() -> None:
    setup = Setup(a=application("embedding"))
    await setup.watcher.refresh()
    before = setup.backend

    setup.cluster.applications = {}
    await setup.watcher.refresh()
    ids_meanwhile = setup.ids
    setup.cluster.applications = {"a": application("embedding")}
    await setup.watcher.refresh()

    assert ids_meanwhile == []
    assert setup.backend is not before


async def test_application_redeployed_as_another_kind_gets_a_backend_of_that_kind() -> None:
    setup = Setup(a=application("embedding"))
    await setup.watcher.refresh()
    setup.cluster.applications = {"a": application("diffusion")}

    await setup.watcher.refresh()

    assert isinstance(setup.backend, DiffusionHandle)


async def test_model_stays_ready_while_serve_builds_a_new_version_of_it() -> None:
    setup = Setup(a=application(adapters=[]))
    await setup.watcher.refresh()
    before = setup.entry

    setup.cluster.applications = {"a": application(default_max_tokens=7)}
    setup.cluster.applications["a"] |= {"status": "DEPLOYING", "deployments": {}}
    await setup.watcher.refresh()

    assert setup.entry.state == "ready"
    assert setup.entry.backend is before.backend
    assert setup.entry.text.default_max_tokens is None


async def test_failure_of_a_new_version_is_logged_once_and_shown_while_the_old_one_serves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setup = Setup(a=application())
    await setup.watcher.refresh()

    setup.cluster.applications["a"] |= {"status": "DEPLOY_FAILED", "deployments": {}}
    for _ in range(2):
        await setup.watcher.refresh()

    reason = "it could not be deployed; Ray Serve's log says why"
    assert (setup.entry.state, setup.entry.message) == ("ready", reason)
    assert [record.getMessage() for record in caplog.records] == [f"model 'm' (ready): {reason}"]


async def test_invalid_user_config_is_shown_and_the_one_before_goes_on() -> None:
    setup = Setup(m=application(user_config={"default_max_tokens": 20}))
    await setup.watcher.refresh()
    setup.cluster.applications["m"] = application(user_config={"default_max_tokens": 0})

    await setup.watcher.refresh()

    assert setup.entry.state == "ready"
    assert setup.entry.text.default_max_tokens == 20
    assert setup.entry.message is not None
    assert setup.entry.message.startswith("user_config.default_max_tokens: ")


async def test_user_config_is_used_once_all_replicas_have_it() -> None:
    setup = Setup(m=application())
    await setup.watcher.refresh()
    changed = application(user_config={"default_max_tokens": 20})
    setup.cluster.applications["m"] = {**changed, "status": "DEPLOYING"}
    await setup.watcher.refresh()
    during = setup.entry.text.default_max_tokens
    setup.cluster.applications["m"] = changed

    await setup.watcher.refresh()

    assert (during, setup.entry.text.default_max_tokens) == (None, 20)


async def test_failed_look_up_keeps_the_models_known_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setup = Setup(a=application(), ledger=LEDGER_APPLICATION)
    await setup.watcher.refresh()
    setup.cluster.error = RuntimeError("the controller restarts")

    await setup.watcher.refresh()

    assert setup.ids == ["m"]
    assert setup.watcher.has_ledger
    assert "keeping those known before" in caplog.text


async def test_failed_first_look_up_leaves_everything_unknown() -> None:
    setup = Setup()
    setup.cluster.error = RuntimeError("the controller restarts")

    await setup.watcher.refresh()

    assert not setup.models.is_known
    assert setup.watcher.has_ledger is None


async def test_capabilities_are_those_of_the_details() -> None:
    setup = Setup(a=application() | {"capabilities": {"max_tokens": 4096}})

    await setup.watcher.refresh()

    assert setup.entry.capabilities == {"max_tokens": 4096}


async def test_adapters_of_the_arguments_are_models_too(tmp_path: Path) -> None:
    setup = Setup(a=application(adapters=[{"id": "adapter", "source": str(tmp_path)}]))

    await setup.watcher.refresh()

    assert setup.models.current.get_llm("adapter").adapter == "adapter"


async def test_ledger_is_found_once_it_is_deployed_and_gone_once_it_is_removed() -> None:
    setup = Setup()
    seen = []
    for applications in ({}, {"l": LEDGER_APPLICATION}, {"l": LEDGER_APPLICATION}, {}):
        setup.cluster.applications = applications
        await setup.watcher.refresh()
        seen.append((setup.watcher.has_ledger, setup.watcher.ledger is not None))

    assert seen == [(False, False), (True, True), (True, True), (False, False)]
    assert setup.cluster.handles == [("Ledger", "l")]


async def test_receiver_stays_on_loopback_while_all_replicas_run_on_this_node() -> None:
    setup = Setup(a=application(node=HERE))

    await setup.watcher.refresh()

    assert setup.receiver.hosts == []


async def test_receiver_listens_at_the_nodes_address_once_a_replica_runs_elsewhere() -> None:
    setup = Setup(a=application(node=THERE))

    await setup.watcher.refresh()
    await setup.watcher.refresh()

    assert setup.receiver.hosts == ["10.0.0.1"]


async def test_address_that_is_not_free_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    setup = Setup(a=application(node=THERE))
    setup.receiver.errors = iter([zmq.ZMQError(errno.EADDRNOTAVAIL)])

    await setup.watcher.refresh()
    await setup.watcher.refresh()

    assert setup.receiver.hosts == ["10.0.0.1", "10.0.0.1"]
    assert setup.ids == ["m"]
    assert "cannot listen at 10.0.0.1" in caplog.text
