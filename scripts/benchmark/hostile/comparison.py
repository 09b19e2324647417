"""What hostile requests and peers cost the others: the worst `/health`, and a stream's worst gap.

Each attack is made once against each stack, with the demo LLM, after a pause in which the stack
comes to rest. With `--variant before:checkout=FOLDER` an older version stands beside this one.
"""

import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from scripts.benchmark.hostile.bodies import to_bodies
from scripts.benchmark.hostile.peers import Target, to_peers
from scripts.benchmark.hostile.probe import Watched
from scripts.benchmark.load.many_streams import ingress_kb
from scripts.benchmark.stacks.launch import ROOT, Model
from scripts.benchmark.stacks.running import Interrupts, Running, started
from scripts.benchmark.stacks.stacks import Stack

_REST_S = 3.0
_TIMEOUT_S = 120.0

Attack = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attack against one stack."""

    stack: str
    attack: str
    answer: str
    seconds: float
    health_ms: float
    gap_ms: float
    ingress_mb: float
    """By which the ingress has grown afterwards."""
    failures: int
    """Requests of the others that failed."""


def run_hostile(stacks: Sequence[Stack], model: Model, out: Path, interrupts: Interrupts) -> int:
    """Attack each stack, print the table and write it to files."""
    outcomes: list[Outcome] = []
    for stack in stacks:
        log = out / "logs" / f"{stack.name}.log"
        with started(stack, model, log, interrupts) as running:
            for outcome in _attack(stack.name, running):
                outcomes.append(outcome)
                print(f"[bench] {to_row(outcome)}", flush=True)
    table = to_table(outcomes)
    (out / "table.md").write_text(table + "\n")
    (out / "results.json").write_text(json.dumps([asdict(each) for each in outcomes], indent=1))
    print(table)
    return 0


def _attack(stack: str, running: Running) -> Iterator[Outcome]:
    assert running.pid is not None
    port = urlsplit(running.base_url).port
    assert port is not None
    target = Target(port, running.pid)
    for name, attack in to_attacks(target, running).items():
        time.sleep(_REST_S)
        before_kb = ingress_kb(running.pid)
        began_s = time.monotonic()
        with _watching(port, running) as read:
            answer = attack()
            seconds = time.monotonic() - began_s
            time.sleep(1.0)  # what it left to do
        watched = read()
        grown_mb = (ingress_kb(running.pid) - before_kb) / 1024
        yield Outcome(
            stack,
            name,
            answer,
            seconds,
            watched.health_s * 1000,
            watched.gap_s * 1000,
            grown_mb,
            len(watched.failures),
        )


def to_attacks(target: Target, running: Running) -> dict[str, Attack]:
    """Name all attacks, beginning with none."""
    bodies = {
        name: partial(_post, target.port, running.key, path, body)
        for name, (path, body) in to_bodies(running.model).items()
    }
    return {"nothing": _do_nothing, **to_peers(target), **bodies}


def _do_nothing() -> str:
    time.sleep(5.0)
    return ""


def _post(port: int, key: str, path: str, body: bytes) -> str:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        with contextlib.closing(connection):
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            code = json.loads(response.read()).get("error", {}).get("code")
            return f"{response.status} {code or ''}".strip()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


@contextlib.contextmanager
def _watching(port: int, running: Running) -> Iterator[Callable[[], Watched]]:
    """Run the probe for the length of a block; afterwards the result can be read."""
    module = "scripts.benchmark.hostile.probe"
    probe = subprocess.Popen(
        [sys.executable, "-m", module, str(port), running.key, running.model],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    results: list[Watched] = []
    try:
        yield lambda: results[0]
        output, _ = probe.communicate()
        results.append(Watched(**json.loads(output)))
    finally:
        probe.kill()
        probe.wait()


def to_row(outcome: Outcome) -> str:
    """Format an outcome as a row of the table."""
    return (
        f"| {outcome.attack} | {outcome.stack} | {outcome.answer} | {outcome.seconds:.1f} s "
        f"| {outcome.health_ms:,.0f} ms | {outcome.gap_ms:,.0f} ms | {outcome.ingress_mb:+,.0f} MB "
        f"| {outcome.failures} |"
    )


def to_table(outcomes: Sequence[Outcome]) -> str:
    """Format the outcomes for docs/performance.md, stacks beside each other."""
    names = list(dict.fromkeys(outcome.attack for outcome in outcomes))
    rows = sorted(outcomes, key=lambda outcome: names.index(outcome.attack))
    head = (
        "| attack | stack | answer | took | worst `/health` | worst gap | ingress | failed |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *map(to_row, rows)])
