"""Each process of a service is killed and frozen, while clients of all kinds go on.

What clients see, what is lost and for how long is in the table "Failures" of docs/deployment.md.
"""

import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from tests.cluster.conftest import APPLICATIONS, LEDGER, application
from tests.helpers.kubernetes.cluster_service import in_background
from tests.helpers.service import Service, running, wait_until
from tests.helpers.tenants import database, make_key
from tests.helpers.traffic import PROMPT, TEXT_AND_VECTORS, Answer, Traffic

pytestmark = pytest.mark.cluster

STREAMS, STREAM_TOKENS = 3, 60
SHORT = {**TEXT_AND_VECTORS, "images/generations": {"model": "colours", "prompt": PROMPT}}
WELL_AFTER_S = 30
"""Measured: 6 to 14 s after a kill, and a frozen replica is killed after 15 s."""
RESTARTED_AFTER_S = 90
"""Measured: 28 s, most of which the start of Ray and the models takes."""
FROZEN_S = 4
NEVER = (
    "not an OpenAI error",
    "no hint to retry",
    "tokens are missing",
    "no [DONE]",
    "cut: ReadTi",
)
"""Starts of failures that no fault may cause."""

MODELS = ("ServeReplica:echo", "ServeReplica:vectors", "ServeReplica:colours")
PROCESSES = {
    "ingress": ("ServeReplica:ingress",),
    "models": MODELS,
    "ledger": ("ServeReplica:ledger",),
    "controller": ("ServeController",),
    "haproxy": ("haproxy.cfg",),
    "proxy manager": ("HAProxyManager",),
}
"""Process → a part of its command line."""


@dataclass
class Rig:
    """A service and its clients: with a key without limits, and with one with limits."""

    service: Service
    traffics: dict[str, Traffic]

    def find(self, *names: str) -> list[psutil.Process]:
        """The processes whose command lines contain one of the names."""
        return [each for each in self.service.processes() if _is_called(each, names)]

    def since(self, began_s: float) -> dict[str, list[Answer]]:
        """Client → its answers that were open at a time or began later, oldest end first."""
        found: dict[str, list[Answer]] = defaultdict(list)
        for name, traffic in self.traffics.items():
            for each in sorted(traffic.since(began_s), key=lambda answer: answer.ended_s):
                found[f"{name} {each.kind}"].append(each)
        return found

    def is_well(self, began_s: float) -> bool:
        """Whether the last answers of all clients began after a time, and are complete."""
        kinds = self.since(began_s)
        return len(kinds) == 2 * len(SHORT) + 1 and all(
            each.failure is None and each.began_s > began_s
            for kind, answers in kinds.items()
            for each in _last(answers, 1 if "stream" in kind else 3)
        )


def _last(answers: list[Answer], count: int) -> list[Answer]:
    return answers[-count:]


def _is_called(process: psutil.Process, names: tuple[str, ...]) -> bool:
    with suppress(psutil.Error):
        line = " ".join(process.cmdline())
        return any(name in line for name in names)
    return False


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    models = [
        application("echo", "llm", "LLM", engine={"tokens_per_s": 20}),
        application("vectors", "embedding", "Embedding"),
        application("colours", "diffusion", "Diffusion"),
    ]
    config = {"applications": [APPLICATIONS[0], *models, LEDGER]}
    with running(config, tmp_path_factory.mktemp("home")) as service, ExitStack() as stack:
        limited = make_key(service, "limited", "--rpm", "100000")
        options: dict[str, Any] = {"stream_tokens": STREAM_TOKENS, "pause_s": 0.3}
        free = Traffic(service.url, service.key, SHORT, streams=STREAMS, **options)
        rig = Rig(
            service,
            {"free": free, "limited": Traffic(service.url, limited, SHORT, streams=0, **options)},
        )
        for traffic in rig.traffics.values():
            stack.enter_context(in_background(traffic.run))
        wait_until(lambda: free.open_streams == STREAMS, timeout_s=20)
        yield rig


def report(rig: Rig, began_s: float) -> str:
    """What failed and when, for a reader of a failed test."""
    failed = [each for answers in rig.since(began_s).values() for each in answers if each.failure]
    return "\n".join(each.describe(began_s) for each in failed)


def check_answers(rig: Rig, began_s: float) -> None:
    """Nothing ended as if it were complete, and every error is OpenAI's with a hint."""
    failures = [each.failure or "" for all_ in rig.since(began_s).values() for each in all_]
    assert not [each for each in failures if each.startswith(NEVER)], report(rig, began_s)


def wait_until_well(rig: Rig, began_s: float, timeout_s: float = WELL_AFTER_S) -> None:
    """All clients get complete answers again."""
    with suppress(AssertionError):
        wait_until(lambda: rig.is_well(began_s), timeout_s)
    print(f"well after {time.monotonic() - began_s:.1f} s")
    assert rig.is_well(began_s), report(rig, began_s)


@pytest.mark.parametrize("what", PROCESSES)
def test_killed_process_is_replaced_and_nothing_ends_as_if_complete(rig: Rig, what: str) -> None:
    killed = rig.find(*PROCESSES[what])
    assert killed
    began_s = time.monotonic()
    for each in killed:
        each.kill()
    wait_until_well(rig, began_s)

    check_answers(rig, began_s)
    assert rig.find(*PROCESSES[what])


@pytest.mark.parametrize("what", ["ingress", "models"])
def test_frozen_replica_is_replaced_and_nothing_ends_as_if_complete(rig: Rig, what: str) -> None:
    frozen = rig.find(*PROCESSES[what])
    assert frozen
    began_s = time.monotonic()
    for each in frozen:
        each.suspend()
    _, left = psutil.wait_procs(frozen, WELL_AFTER_S)
    wait_until_well(rig, time.monotonic())

    check_answers(rig, began_s)
    assert left == []


@pytest.mark.parametrize("what", ["ledger", "controller", "haproxy", "proxy manager"])
def test_process_that_is_frozen_for_a_while_goes_on(rig: Rig, what: str) -> None:
    frozen = rig.find(*PROCESSES[what])
    assert frozen
    began_s = time.monotonic()
    for each in frozen:
        each.suspend()
    time.sleep(FROZEN_S)
    for each in frozen:
        with suppress(psutil.NoSuchProcess):
            each.resume()
    wait_until_well(rig, time.monotonic())

    check_answers(rig, began_s)


def test_death_of_ray_itself_starts_everything_again(rig: Rig) -> None:
    (raylet,) = [each for each in rig.service.processes() if each.name() == "raylet"]
    began_s = time.monotonic()
    raylet.kill()
    wait_until_well(rig, began_s, RESTARTED_AFTER_S)

    check_answers(rig, began_s)
    assert rig.service.process.poll() is None


def test_usage_of_complete_answers_is_exact_and_nothing_is_counted_twice(rig: Rig) -> None:
    answers = [each for all_ in rig.since(0).values() for each in all_]
    complete = {each.id: each.tokens for each in answers if each.failure is None}
    wait_until(lambda: complete.keys() <= _recorded(rig).keys(), timeout_s=10)
    recorded = _recorded(rig)

    assert {id_: recorded[id_] for id_ in complete} == {
        id_: [(tokens, None)] for id_, tokens in complete.items()
    }
    assert not [each for each in answers if len(recorded.get(each.id, [])) > 1]


def _recorded(rig: Rig) -> dict[str, list[tuple[int, str | None]]]:
    """Request id → completion tokens and error code of its records."""
    found = defaultdict(list)
    file = f"file:{database(rig.service)}?mode=ro"
    with closing(sqlite3.connect(file, uri=True)) as connection:
        for id_, tokens, code in connection.execute(
            "SELECT request_id, completion_tokens, error_code FROM usage"
        ):
            found[id_].append((tokens, code))
    return found
