import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scripts.service.ray_watch import NAMES, RayWatch
from tests.helpers.service import wait_until

SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Children of this process with the names of Ray's."""
    started = {}
    for name in NAMES:
        link = tmp_path / name
        link.symlink_to(sys.executable)
        started[name] = subprocess.Popen([link, "-c", SLEEP])
    wait_until(lambda: {*NAMES} <= {psutil.Process(p.pid).name() for p in started.values()}, 10)
    yield started
    for process in started.values():
        process.kill()
        process.wait()


def test_nothing_is_dead_before_anything_was_seen() -> None:
    assert RayWatch(psutil.Process()).find_dead() is None


@pytest.mark.parametrize("name", NAMES)
def test_process_that_dies_is_named(
    processes: dict[str, subprocess.Popen[bytes]], name: str
) -> None:
    watch = RayWatch(psutil.Process())
    assert watch.find_dead() is None

    processes[name].kill()

    wait_until(lambda: watch.find_dead() == name, 10)
    processes[name].wait()
    assert watch.find_dead() == name


def test_tree_that_has_gone_is_no_error(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    root = psutil.Process(processes[NAMES[0]].pid)
    watch = RayWatch(root)
    processes[NAMES[0]].kill()
    processes[NAMES[0]].wait()

    assert watch.find_dead() is None
