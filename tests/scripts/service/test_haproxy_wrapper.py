"""The wrapper around HAProxy, with a program in its place that only ends."""

import json
import subprocess
from pathlib import Path

import pytest

WRAPPER = Path(__file__).resolve().parents[3] / "scripts" / "service" / "haproxy"
CONFIG = """global
    maxconn 20000
defaults
    errorfile 503 {folder}/500.http
    option splice-request
frontend prometheus
    bind *:9101
    bind *:8000
"""


def rewrite(folder: Path, text: str, files: int) -> list[str]:
    """Let the wrapper start with a hard limit of open files; returns the lines it has left."""
    config = folder / "haproxy.cfg"
    config.write_text(text.replace("{folder}", str(folder)))
    command = f'ulimit -n {files} && exec "{WRAPPER}" -f "{config}"'
    ports = {"RAY_SERVE_HAPROXY_STATS_PORT": "8404", "RAY_SERVE_HAPROXY_METRICS_PORT": "9101"}
    environment = {"PATH": "/usr/bin:/bin", "TRIPTYCH_HAPROXY": "/bin/true", **ports}
    subprocess.run(["bash", "-c", command], env=environment, check=True)
    return [line.strip() for line in config.read_text().splitlines()]


@pytest.mark.parametrize(("files", "connections"), [(2000, 950), (1000, 450)])
def test_no_more_clients_are_let_in_than_the_hard_limit_of_files_allows(
    tmp_path: Path, files: int, connections: int
) -> None:
    assert f"maxconn {connections}" in rewrite(tmp_path, CONFIG, files)


def test_limit_of_files_that_is_high_enough_changes_nothing(tmp_path: Path) -> None:
    config = CONFIG.replace("20000", "400")

    assert "maxconn 400" in rewrite(tmp_path, config, 1000)


def test_metrics_are_for_the_own_machine_only_and_nothing_is_spliced(tmp_path: Path) -> None:
    lines = rewrite(tmp_path, CONFIG, 1000)

    assert "bind 127.0.0.1:9101" in lines
    assert "bind *:8000" in lines
    assert not [line for line in lines if "splice" in line]


def test_error_of_haproxy_itself_has_the_form_of_all_others(tmp_path: Path) -> None:
    rewrite(tmp_path, CONFIG, 1000)

    head, body = (tmp_path / "500.http").read_bytes().split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}
