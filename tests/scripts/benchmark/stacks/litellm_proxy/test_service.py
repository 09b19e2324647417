import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scripts.benchmark.stacks.launch import ROOT
from tests.helpers.service import free_port, wait_until

LASTING = [sys.executable, "-c", "input()"]
SHORT = [sys.executable, "-c", ""]
PROXY = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Proxy(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = [os.environ["DATABASE_URL"], self.path, self.headers["Authorization"], body]
        self.send_response(200)
        self.end_headers()
        with open(sys.argv[2] + ".part", "w") as file:
            json.dump(said, file)
        os.rename(sys.argv[2] + ".part", sys.argv[2])

HTTPServer(("127.0.0.1", int(sys.argv[1])), Proxy).serve_forever()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    """Starts the service with two commands, and kills it after the test."""
    started = []

    def run(vllm: list[str], litellm: list[str], **more: object) -> subprocess.Popen[bytes]:
        plan = {"vllm": {"command": vllm, "env": {}}, "litellm": {"command": litellm, "env": {}}}
        path = tmp_path / "plan.json"
        path.write_text(json.dumps({**plan, "postgres": None, **more}))
        command = [sys.executable, "-m", "scripts.benchmark.stacks.litellm_proxy.service", path]
        started.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_end_of_one_process_ends_all(start):
    assert start(LASTING, SHORT).wait(30) == 1


def test_sigterm_ends_all(start):
    service = start(LASTING, LASTING)
    tree = psutil.Process(service.pid)
    wait_until(lambda: len(tree.children()) == 2, 30)
    children = tree.children()

    service.send_signal(signal.SIGTERM)

    assert service.wait(30) == 0
    assert psutil.wait_procs(children, timeout=1)[1] == []


def test_key_is_made_over_the_api_of_a_proxy_with_a_database(start, tmp_path: Path):
    port, said, key = free_port(), tmp_path / "said.json", {"key": "sk-1", "rpm_limit": 5}
    folder = Path(tempfile.mkdtemp(prefix="triptych-litellm-"))
    folder.chmod(0o711)  # PostgreSQL may run as another user, which pytest's folders keep out
    try:
        service = start(
            LASTING,
            [sys.executable, "-c", PROXY, str(port), str(said)],
            postgres=str(folder / "postgres"),
            port=port,
            master_key="sk-0",
            key=key,
        )
        wait_until(said.exists, 60)
        children = psutil.Process(service.pid).children(recursive=True)
        service.terminate()

        assert service.wait(30) == 0
        assert psutil.wait_procs(children, timeout=1)[1] == []
    finally:
        shutil.rmtree(folder)

    url, path, authorization, body = json.loads(said.read_text())
    assert url.startswith("postgresql://")
    assert (path, authorization, body) == ("/key/generate", "Bearer sk-0", key)
