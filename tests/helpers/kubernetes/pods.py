"""Pods without Kubernetes: namespaces of the kernel for their network, processes and mounts.

They are joined by a bridge, on which this process has an address too. Making them needs root.
"""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.helpers.service import wait_until

ROOT = Path(__file__).resolve().parents[3]

_PREPARE = """
set -e
mount --bind "$FOLDER/etc/hosts" /etc/hosts
mount --rbind "$FOLDER/tmp" /tmp  # with the checkout, if it is in /tmp
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount -t tmpfs tmpfs /var/lib
mkdir /var/lib/triptych
mount -o remount,bind,ro /
cd /var/lib/triptych
unset FOLDER
exec "$@"
"""
"""What is mounted is what the manifests mount. The root file system is for reading only."""


@dataclass
class Network:
    """A bridge, and the addresses that pods take."""

    bridge: str
    prefix: str
    """The first three numbers of its addresses."""
    hosts: dict[str, str] = field(default_factory=dict)
    """Names that pods know: name → address."""
    _free: Iterator[int] = field(default_factory=lambda: itertools.count(2))

    @property
    def gateway(self) -> str:
        """The address of this process."""
        return f"{self.prefix}.1"

    def take_address(self) -> str:
        """Return an address that no pod has had."""
        return f"{self.prefix}.{next(self._free)}"

    def connect(self, pid: int, address: str) -> None:
        """Give the process's network namespace an interface with this address."""
        enter = ["nsenter", "-t", str(pid), "-n"]
        name = f"{self.bridge}-{pid % 100_000}"
        _run("ip", "link", "add", name, "type", "veth", "peer", "eth0", "netns", str(pid))
        _run("ip", "link", "set", name, "master", self.bridge, "up")
        _run(*enter, "ip", "link", "set", "lo", "up")
        _run(*enter, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        _run(*enter, "ip", "link", "set", "eth0", "up")
        _run(*enter, "ip", "route", "add", "default", "via", self.gateway)


def can_make_pods() -> bool:
    """Whether this process may make namespaces and interfaces: some containers may not."""
    make = 'ip link add "$0" type bridge && ip link delete "$0"'
    command = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "bash", "-c", make, "tri"]
    return subprocess.run(command, capture_output=True).returncode == 0


@contextlib.contextmanager
def pod_network() -> Iterator[Network]:
    """Make a bridge for the block."""
    digits = random.SystemRandom().randrange(256 * 100)
    network = Network(f"tri{digits}", f"10.{100 + digits // 256}.{digits % 256}")
    _run("ip", "link", "add", network.bridge, "type", "bridge")
    try:
        _run("ip", "address", "add", f"{network.gateway}/24", "dev", network.bridge)
        _run("ip", "link", "set", network.bridge, "up")
        yield network
    finally:
        _run("ip", "link", "delete", network.bridge)


class Pod:
    """One container with process 1. It may start again: the pod's address and /tmp outlive it."""

    def __init__(self, name: str, network: Network, folder: Path) -> None:
        """Start nothing yet.

        Args:
            name: names its folder.
            network: where it gets an address.
            folder: gets a folder for what the pod writes to /tmp, and its output.
        """
        self.name = name
        self.address = network.take_address()
        self.folder = folder / name
        self.output = self.folder / "output.txt"
        self.starts = 0
        """How often its container was started."""
        self._container: subprocess.Popen[bytes] | None = None
        self._prepare_folder(network)
        # It holds the network, as the `pause` container of a pod does.
        self._pause = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        wait_until(lambda: psutil.Process(self._pause.pid).name() == "sleep", timeout_s=10)
        network.connect(self._pause.pid, self.address)

    def _prepare_folder(self, network: Network) -> None:
        (self.folder / "etc").mkdir(parents=True)
        (self.folder / "tmp").mkdir()
        hosts = {"localhost": "127.0.0.1", self.name: self.address, **network.hosts}
        lines = [f"{address} {name}\n" for name, address in hosts.items()]
        (self.folder / "etc" / "hosts").write_text("".join(lines))

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a command as process 1."""
        enter = ["nsenter", "--target", str(self._pause.pid), "--net"]
        spaces = ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
        shell = ["bash", "-c", _keep_visible() + _PREPARE, "bash", *command]
        self.starts += 1
        with self.output.open("a") as output:
            self._container = subprocess.Popen(
                [*enter, "unshare", *spaces, *shell],
                env={**environment, "FOLDER": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """The pid of process 1 outside of the pod."""
        assert self._container, f"{self.name} has not been started"
        unshare = psutil.Process(self._container.pid)
        wait_until(lambda: len(unshare.children()) > 0, timeout_s=10)
        return unshare.children()[0].pid

    @property
    def is_running(self) -> bool:
        """Whether process 1 has not ended."""
        return self._container is not None and self._container.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Send process 1 a signal; SIGKILL ends all processes of the container."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> None:
        """Wait until process 1, and with it every process of the container, has ended."""
        if self._container:
            self._container.wait(timeout_s)

    def find_pids(self, title: str) -> list[int]:
        """Find the processes of the pod whose command line contains the title."""
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if title in " ".join(process.cmdline()):
                    found.append(process.pid)
        return found

    def execute(self, command: str, timeout_s: float) -> bool:
        """Run a line of bash in the pod, as a probe does; returns whether it ended well in time."""
        enter = ["nsenter", "-t", str(self._pause.pid), "-n", "bash", "-c", command]
        try:
            done = subprocess.run(enter, capture_output=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def run(self, *command: str) -> str:
        """Run a command in the pod, with its environment, as `kubectl exec`; returns its output."""
        pairs = Path(f"/proc/{self.pid}/environ").read_text().split("\0")
        environment = dict(pair.split("=", 1) for pair in pairs if pair)
        spaces = ["--net", "--mount", "--pid", "--wd"]
        enter = ["nsenter", "--target", str(self.pid), *spaces]
        done = subprocess.run([*enter, *command], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end(self) -> None:
        """Kill the container, and take its network away, as when a node is lost."""
        if self.is_running:
            self.send_signal(signal.SIGKILL)
            self.wait(20)
        self._pause.kill()
        self._pause.wait(20)


def _keep_visible() -> str:
    """Make the checkout visible in a pod, should it be in the folder that a pod has for itself."""
    temporary = Path(tempfile.gettempdir())
    if temporary != Path("/tmp") or temporary not in ROOT.parents:
        return ""
    inside = f'"$FOLDER"/tmp/{ROOT.relative_to(temporary)}'
    return f'mkdir -p {inside}; mount --bind "{ROOT}" {inside}\n'


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
