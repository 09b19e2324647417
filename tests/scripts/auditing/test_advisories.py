import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.auditing.advisories import ask, check_advisories, is_affected


def advisory(*events: dict[str, str], versions: tuple[str, ...] = (), **package: str) -> Any:
    named = {"ecosystem": "PyPI", "name": "Some_Package", **package}
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}]
    affected = [{"package": named, "ranges": ranges, "versions": list(versions)}]
    return {"id": "X-1", "summary": "it is bad", "affected": affected}


BEGIN = {"introduced": "0"}


@pytest.mark.parametrize(
    ("events", "version", "expected"),
    [
        ([BEGIN, {"fixed": "1.10"}], "1.9", True),
        ([BEGIN, {"fixed": "1.10"}], "1.10", False),
        ([BEGIN, {"fixed": "1.10"}], "1.10rc1", True),
        ([BEGIN, {"fixed": "1.10"}], "1.10+cpu", False),
        ([BEGIN, {"last_affected": "1.10"}], "1.10", True),
        ([BEGIN, {"last_affected": "1.10"}], "1.10.1", False),
        ([{"introduced": "2"}], "1", False),
        ([{"introduced": "2"}], "2", True),
        ([{"fixed": "3"}, {"introduced": "2"}], "2.5", True),
        ([BEGIN, {"fixed": "1"}, {"introduced": "2"}, {"fixed": "3"}], "1.5", False),
        ([BEGIN, {"fixed": "1"}, {"introduced": "2"}, {"fixed": "3"}], "2.5", True),
        ([BEGIN, {"fixed": "1"}], "no version", True),
    ],
)
def test_range_of_versions_is_applied(events: Any, version: str, expected: bool) -> None:
    assert is_affected(advisory(*events), "some-package", version) == expected


def test_listed_version_is_affected() -> None:
    assert is_affected(advisory(versions=("1.2",)), "some.package", "1.2")
    assert not is_affected(advisory(versions=("1.2",)), "some.package", "1.3")


@pytest.mark.parametrize("package", [{"name": "another"}, {"ecosystem": "npm"}])
def test_advisory_about_another_package_is_left_out(package: dict[str, str]) -> None:
    assert not is_affected(advisory(BEGIN, **package), "some-package", "1")


def test_affected_package_is_a_finding(tmp_path: Path) -> None:
    file = tmp_path / "advisories.json"
    file.write_text(json.dumps([advisory(BEGIN, {"fixed": "2"})]))

    found = check_advisories({"some-package": "1", "another": "1"}, file)

    assert found.checked == 2
    assert [(each.subject, each.problem) for each in found.findings] == [
        ("some-package 1", "X-1: it is bad")
    ]


class Osv(BaseHTTPRequestHandler):
    """Knows one advisory, about the package `bad`."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        queries = json.loads(body)["queries"]
        results = [
            {"vulns": [{"id": "X-2"}]} if query["package"]["name"] == "bad" else {}
            for query in queries
        ]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"results": results}).encode())

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def osv() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Osv)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    serving.join()
    server.server_close()


def test_answer_of_the_service_is_a_finding(osv: str) -> None:
    found = ask({"good": "1", "bad": "2+cpu"}, osv)

    assert [(each.subject, each.problem) for each in found.findings] == [("bad 2+cpu", "X-2")]


def test_service_that_cannot_be_reached_is_a_finding() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    found = ask({"good": "1"}, f"http://127.0.0.1:{port}")

    assert [each.problem for each in found.findings] == ["does not answer as it should (URLError)"]
