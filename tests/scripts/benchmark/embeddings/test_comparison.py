import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
import pytest

from scripts.benchmark.arguments import PEERS as NAMES
from scripts.benchmark.arguments import read_plan
from scripts.benchmark.embeddings.comparison import (
    Comparison,
    Results,
    to_cosine,
    to_order,
    to_texts,
)
from scripts.benchmark.embeddings.contenders import Contender, alone
from scripts.benchmark.embeddings.infinity import prepare_environment
from scripts.benchmark.embeddings.load import (
    Rate,
    Server,
    Vectors,
    embed,
    measure_p50_ms,
    measure_rate,
    read_vectors,
)
from scripts.benchmark.embeddings.peers import PEERS
from scripts.benchmark.stacks.launch import StackError
from scripts.benchmark.stacks.own_environment import to_version
from scripts.benchmark.stacks.running import Interrupts
from tests.helpers.service import wait_until


@dataclass
class FakeContender:
    """A contender with given vectors and a given rate."""

    name: str
    scale: float = 1.0
    texts_per_s: float = 1.0
    turns: list[str] = field(default_factory=list)
    roots: tuple[int, ...] = ()

    def rate(self, texts: Sequence[str]) -> Rate:
        self.turns.append(self.name)
        return Rate(self.texts_per_s, 0.5)

    def short_ms(self) -> float:
        return self.texts_per_s

    def vectors(self, texts: Sequence[str]) -> Vectors:
        return np.array([[1.0, self.scale] for _ in texts], "<f4")


@pytest.fixture
def interrupts() -> Interrupts:
    return Interrupts(signals=())  # pytest handles them itself


def compare(our: Contender, peers: list[Contender], interrupts: Interrupts) -> Comparison:
    """Build a comparison whose resumed contenders need no time to catch up."""
    return Comparison(our, peers, Results(), interrupts, resume_s=0)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server whose vectors hold the length of each text; it refuses the text `bad`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            data = [
                {"index": index, "embedding": to_embedding(text, request["encoding_format"])}
                for index, text in enumerate(request["input"])
            ]
            body = json.dumps({"data": data}).encode()
            self.send_response(400 if "bad" in request["input"] else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listening.serve_forever, args=(0.05,), daemon=True).start()
    yield Server(listening.server_address[1], "m", "k")
    listening.shutdown()
    listening.server_close()


def to_embedding(text: str, encoding: str) -> str | list[float]:
    numbers = [0.5, float(len(text))]
    return (
        numbers if encoding == "float" else b64encode(np.array(numbers, "<f4").tobytes()).decode()
    )


def test_same_seed_gives_the_same_texts():
    assert to_texts(3, 20) == to_texts(3, 20) != to_texts(4, 20)


def test_each_peer_is_first_in_turn():
    peers: list[Contender] = [FakeContender(name) for name in "abc"]

    orders = ["".join(peer.name for peer in to_order(peers, number)) for number in (1, 2, 3, 4)]

    assert orders == ["abc", "bca", "cab", "abc"]


def test_cosine_is_that_of_the_worst_pair():
    some = np.array([[1, 0], [1, 1]], "<f4")

    assert to_cosine(some, 3 * some) == pytest.approx(1)
    assert to_cosine(some, np.array([[1, 0], [1, 0]], "<f4")) == pytest.approx(0.5**0.5)
    assert to_cosine(some, some[:1]) == -1


def test_peer_with_other_vectors_is_left_out(interrupts: Interrupts):
    peers: list[Contender] = [FakeContender("vllm", 1.01), FakeContender("infinity", 1.2)]
    comparison = compare(FakeContender("triptych"), peers, interrupts)

    comparison.check()

    assert [peer.name for peer in comparison.peers] == ["vllm"]


def test_triptych_is_measured_beside_each_peer(interrupts: Interrupts):
    turns: list[str] = []
    peers: list[Contender] = [
        FakeContender("encode", 1, 2, turns),
        FakeContender("vllm", 1, 4, turns),
    ]
    our = FakeContender("triptych", 1, 6, turns)
    comparison = compare(our, peers, interrupts)

    comparison.measure_round(1)
    comparison.measure_round(2)

    first, second = turns[:8:2], turns[8::2]  # each measurement has a warm-up
    assert first == ["encode", "triptych", "vllm", "triptych"]
    assert second == ["triptych", "vllm", "triptych", "encode"]
    assert comparison.results.values["vs_encode"] == [3, 3]
    assert comparison.results.values["vs_vllm"] == [1.5, 1.5]
    assert comparison.results.values["beyond_ms"] == [4, 4]
    assert comparison.results.values["client_cores"] == [0.5] * 6


def test_table_has_only_measured_figures():
    results = Results()
    results.add("vs_vllm", 1.5)

    rows = results.table().splitlines()[2:]

    assert len(rows) == 1
    assert rows[0].endswith("vs vLLM | ≥ 1.5 | 1.50 | 1.50-1.50 |")


@pytest.mark.parametrize("encoding", ["base64", "float"])
def test_vectors_are_read_by_index(encoding: str):
    data = [{"index": index, "embedding": to_embedding("x" * index, encoding)} for index in (1, 0)]

    assert read_vectors(json.dumps({"data": data}).encode()).tolist() == [[0.5, 0], [0.5, 1]]


@pytest.mark.parametrize("encoding", ["base64", "float"])
def test_server_is_measured_over_kept_alive_connections(server: Server, encoding: str):
    asked = Server(server.port, "m", "k", encoding=encoding)

    rate = measure_rate(asked, [["é", "bb"]] * 5, clients=2)

    assert embed(asked, ["é", "bb"]).tolist() == [[0.5, 1], [0.5, 2]]
    assert rate.texts_per_s > 0
    assert 0 < rate.client_cores < 4
    assert measure_p50_ms(asked, "one", 3) > 0


def test_refused_request_ends_the_measurement(server: Server):
    with pytest.raises(StackError, match="status 400"):
        measure_rate(server, [["good"], ["bad"]], clients=2)


def test_missing_server_ends_the_measurement():
    with pytest.raises(StackError, match="Connect"):
        measure_p50_ms(Server(1, "m", "k"), "one", 1)


def test_other_contenders_are_stopped_and_resumed(interrupts: Interrupts):
    work = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(work) as busy, subprocess.Popen(work) as waiting:
        own, other = FakeContender("own"), FakeContender("other")
        own.roots, other.roots = (busy.pid,), (waiting.pid,)
        try:
            with alone(own, [own, other], interrupts, resume_s=0) as others:
                wait_until(lambda: psutil.Process(waiting.pid).status() == psutil.STATUS_STOPPED, 5)
                states = [psutil.Process(pid).status() for pid in (busy.pid, waiting.pid)]
            after = psutil.Process(waiting.pid).status()
        finally:
            busy.kill()
            waiting.kill()

    assert states[0] != psutil.STATUS_STOPPED  # running, or reading a file as it starts
    assert states[1] == psutil.STATUS_STOPPED
    assert after == psutil.STATUS_RUNNING
    assert others.cores < 0.2


def test_changed_requirements_make_another_environment(tmp_path: Path):
    lock = tmp_path / "lock.txt"
    lock.write_text("a==1")
    before = to_version(lock)
    lock.write_text("a==2")

    assert to_version(lock) != before


def test_environment_with_the_same_requirements_is_kept(tmp_path: Path):
    lock = tmp_path / "lock.txt"
    lock.write_text("a==1")
    (tmp_path / ".set-up").write_text(to_version(lock, lock))

    python = prepare_environment(tmp_path, tmp_path / "log", torch=lock, lock=lock)

    assert python == tmp_path / "bin" / "python"
    assert not (tmp_path / "log").exists()


def test_environment_that_cannot_be_made_is_an_error(tmp_path: Path):
    with pytest.raises(StackError, match="cannot be made"):
        prepare_environment(tmp_path / "environment", tmp_path / "log", python="/no/python")


def test_command_line_knows_all_peers():
    assert list(PEERS) == list(NAMES)
    assert read_plan(["--peers", "vllm,encode,vllm"]).peers == ["vllm", "encode"]
    assert read_plan([]).peers == ["encode"]
