import json
import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.ledger.audit_log import AuditLog


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def test_each_event_is_one_line_with_its_time(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "logs" / "audit.jsonl")
    log.write("key_created", name="app")
    log.write("auth_failures", count=3)
    first, second = events(tmp_path / "logs" / "audit.jsonl")
    age = datetime.now(UTC) - datetime.fromisoformat(first.pop("time"))

    assert first == {"event": "key_created", "name": "app"}
    assert second["event"] == "auth_failures"
    assert second["count"] == 3
    assert timedelta(0) <= age < timedelta(minutes=1)


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "audit.jsonl"
    AuditLog(path).write("config_loaded")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_common_fields_are_in_each_event(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", actor="cli", source="test")
    log.write("key_deleted", name="app")
    (event,) = events(tmp_path / "audit.jsonl")

    assert event == event | {"actor": "cli", "source": "test", "name": "app"}


def test_control_characters_cannot_forge_a_line(tmp_path: Path) -> None:
    hostile = 'a\n{"event": "key_deleted"}\x1b[2J\x7f\u2028\ud800"'
    AuditLog(tmp_path / "audit.jsonl").write("key_created", name=hostile)
    (event,) = events(tmp_path / "audit.jsonl")

    assert event["name"] == hostile
    assert (tmp_path / "audit.jsonl").read_bytes().isascii()
    assert b"\x1b" not in (tmp_path / "audit.jsonl").read_bytes()


def test_nested_texts_are_capped(tmp_path: Path) -> None:
    long = "x" * 1000
    AuditLog(tmp_path / "audit.jsonl").write("key_changed", name=long, changes={"models": [long]})
    (event,) = events(tmp_path / "audit.jsonl")

    assert event["name"] == "x" * 256
    assert event["changes"] == {"models": ["x" * 256]}


def test_lines_of_concurrent_writers_do_not_mix(tmp_path: Path) -> None:
    logs = [AuditLog(tmp_path / "audit.jsonl", writer=number) for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        for number in range(400):
            threads.submit(logs[number % 4].write, "key_changed", name="x" * 256)

    assert len(events(tmp_path / "audit.jsonl")) == 400


def test_write_failure_is_logged_once_and_not_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "audit.jsonl"
    path.mkdir()
    log = AuditLog(path)
    log.write("config_loaded")
    log.write("config_loaded")
    path.rmdir()
    log.write("key_created")

    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert str(path) in caplog.text
    assert [event["event"] for event in events(path)] == ["key_created"]
