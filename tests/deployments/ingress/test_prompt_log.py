import json
import os
import stat
import time
from pathlib import Path

import pytest

from deployments.config.ingress import PromptLogArgs
from deployments.ingress.prompt_log import PromptFiles


def keep(folder: Path, *bodies: bytes) -> list[Path]:
    files = PromptFiles(PromptLogArgs(folder=str(folder), retention_days=2))
    for number, body in enumerate(bodies):
        files.keep(f"req_{number}", "m", body)
    files.shut_down()
    return sorted(folder.iterdir())


def test_each_prompt_is_one_line(tmp_path: Path) -> None:
    (path,) = keep(tmp_path / "log", b'{"prompt": "a\\nb"}', b'{"prompt": "c"}')
    records = [json.loads(line) for line in path.read_text().splitlines()]

    assert [record["request"] for record in records] == [{"prompt": "a\nb"}, {"prompt": "c"}]
    assert [record["request_id"] for record in records] == ["req_0", "req_1"]
    assert records[0]["model"] == "m"
    assert records[0]["time"].endswith("+00:00")


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    (path,) = keep(tmp_path / "log", b"{}")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_files_older_than_the_retention_are_deleted(tmp_path: Path) -> None:
    for name, age_days in (("old.jsonl", 3), ("young.jsonl", 1)):
        (tmp_path / name).write_text("{}")
        then_s = time.time() - age_days * 86_400
        os.utime(tmp_path / name, (then_s, then_s))

    names = [path.name for path in keep(tmp_path, b"{}")]

    assert "old.jsonl" not in names
    assert "young.jsonl" in names


def test_missing_folder_does_not_fail_the_request(tmp_path: Path) -> None:
    files = PromptFiles(PromptLogArgs(folder=str(tmp_path / "log")))
    (tmp_path / "log").rmdir()
    files.keep("r", "m", b"{}")
    files.shut_down()

    assert not (tmp_path / "log").exists()


def test_folder_that_is_away_is_logged_once_and_prompts_are_logged_again_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = PromptFiles(PromptLogArgs(folder=str(tmp_path / "log")))
    (tmp_path / "log").rename(tmp_path / "away")
    for _ in range(3):
        files.keep("lost", "m", b"{}")
    files._thread.submit((tmp_path / "away").rename, tmp_path / "log")
    files.keep("kept", "m", b"{}")
    files.shut_down()
    (path,) = (tmp_path / "log").iterdir()

    assert json.loads(path.read_text())["request_id"] == "kept"
    assert caplog.text.count("prompts cannot be logged") == 1
