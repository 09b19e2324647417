"""How each contender is started: Triptych, `encode`, vLLM's pooling server and infinity-emb.

All run the same model with the same number format and number of threads, each with its fastest
options; comments give the reason of each difference. Triptych starts first and ends last, and its
end also kills the processes that the others left.
"""

import contextlib
import http.client
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from scripts.benchmark.embeddings.contenders import Bare, Contender, Served
from scripts.benchmark.embeddings.infinity import launch_infinity
from scripts.benchmark.embeddings.load import Server
from scripts.benchmark.stacks.launch import KEY, Launch, Model, StackError
from scripts.benchmark.stacks.one_model import serving
from scripts.benchmark.stacks.process_cost import tree
from scripts.benchmark.stacks.running import START_S, Interrupts
from scripts.benchmark.stacks.vllm_server import launch_vllm
from scripts.service import process_tree
from scripts.service.environment import free_ports

MODEL = "all-minilm-l6-v2"
STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What all contenders have in common."""

    folder: Path
    dtype: str
    env: dict[str, str]
    home: Path
    logs: Path
    interrupts: Interrupts


@contextlib.contextmanager
def ours(setting: Setting) -> Iterator[Contender]:
    """Run Triptych with the encoder for the length of a block.

    Raises:
        StackError: the service is not ready in time.
    """
    model = {"id": MODEL, "source": str(setting.folder), "engine": {"dtype": setting.dtype}}
    log = setting.logs / "embeddings.log"
    with serving("embedding", model, setting.env, log, setting.interrupts) as port:
        # Nothing else has been started yet.
        roots = tuple(child.pid for child in psutil.Process().children())
        yield Served("triptych", Server(port, MODEL, KEY), roots)


@contextlib.contextmanager
def _encode(setting: Setting) -> Iterator[Contender]:
    with contextlib.closing(Bare(setting.folder, setting.dtype, setting.env)) as bare:
        yield bare


@contextlib.contextmanager
def _vllm(setting: Setting) -> Iterator[Contender]:
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    # By default vLLM leaves a core to its other processes; on two cores, binding to both is faster.
    env = {**setting.env, "VLLM_CPU_OMP_THREADS_BIND": cores}
    model = Model(MODEL, str(setting.folder), {"runner": "pooling", "dtype": setting.dtype})
    launch = launch_vllm(model, env, free_ports(1)[0])
    with _started("vllm", launch, "/v1/embeddings", setting) as contender:
        yield contender


@contextlib.contextmanager
def _infinity(setting: Setting) -> Iterator[Contender]:
    port = free_ports(1)[0]
    launch = launch_infinity(
        Model(MODEL, str(setting.folder), {"dtype": setting.dtype}),
        setting.home,
        setting.env,
        port,
        setting.logs / "infinity-set-up.log",
    )
    with _started("infinity", launch, "/embeddings", setting) as contender:
        yield contender


PEERS: dict[str, Callable[[Setting], contextlib.AbstractContextManager[Contender]]] = {
    "encode": _encode,
    "vllm": _vllm,
    "infinity": _infinity,
}
"""Name in `--peers` → how the contender is started."""


@contextlib.contextmanager
def _started(name: str, launch: Launch, path: str, setting: Setting) -> Iterator[Contender]:
    log = setting.logs / f"{name}.log"
    with log.open("w") as output:
        root = process_tree.start(launch.command, cwd=launch.cwd, env=launch.env, log=output)
    try:
        _wait_until_ready(name, root, launch.port, log)
        yield Served(name, Server(launch.port, MODEL, launch.key, path), (root.pid,))
    finally:
        with setting.interrupts.held():
            _end(root)


def _wait_until_ready(name: str, root: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and root.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        connection.close()
        time.sleep(0.5)
    raise StackError(f"{name} is not ready: see {log}")


def _end(root: subprocess.Popen[bytes]) -> None:
    """End one contender; `process_tree.end` would wait for all descendants of this process."""
    with contextlib.suppress(psutil.NoSuchProcess):
        processes = [psutil.Process(pid) for pid in tree(root.pid)]
        root.terminate()
        _, left = psutil.wait_procs(processes, timeout=STOP_S)
        process_tree.kill(left)
    root.wait()
