import fcntl
import os
import stat
from pathlib import Path

import msgspec
import pytest

from deployments.ledger import spool as spool_module
from deployments.ledger.spool import Spool, find_orphaned_spools
from tests.helpers.ledger_cluster import make_record


def leave(folder: Path, *lines: bytes) -> Path:
    """The file of a process that is dead: nobody has locked it."""
    folder.mkdir(exist_ok=True)
    path = folder / "dead.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def to_line(record) -> bytes:
    return msgspec.json.encode(record) + b"\n"


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_records_are_on_disk_at_once_and_gone_when_the_ledger_has_all(tmp_path):
    spool = Spool(tmp_path / "spool")
    first, second = make_record(user="ann"), make_record(prompt_tokens=3)
    spool.keep(first)
    spool.keep(second)
    (path,) = files(tmp_path / "spool")
    assert path.read_bytes().split() == [to_line(first).strip(), to_line(second).strip()]

    spool.forget([first.id])
    assert path.stat().st_size
    spool.forget([second.id, "another's"])
    assert path.stat().st_size == 0

    third = make_record()
    spool.keep(third)
    assert path.read_bytes().strip() == to_line(third).strip()
    spool.shut_down()


def test_only_the_owner_can_read_it(tmp_path):
    spool = Spool(tmp_path / "spool")
    (path,) = files(tmp_path / "spool")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    spool.shut_down()


def test_an_empty_file_is_taken_away_at_the_end(tmp_path):
    spool = Spool(tmp_path)
    record = make_record()
    spool.keep(record)
    spool.forget([record.id])
    spool.shut_down()

    assert files(tmp_path) == []


def test_what_is_left_at_the_end_is_another_ones_to_find(tmp_path):
    spool = Spool(tmp_path)
    record = make_record(user="ann", ttft_ms=1.5)
    spool.keep(record)
    assert list(find_orphaned_spools(tmp_path)) == [], "its replica lives"
    spool.shut_down()
    (spool,) = find_orphaned_spools(tmp_path)
    assert spool.records == [record]
    assert list(find_orphaned_spools(tmp_path)) == [], "somebody is at it already"
    spool.remove()

    assert files(tmp_path) == []


def test_an_orphan_that_is_closed_is_left_to_the_next_one(tmp_path):
    record = make_record()
    leave(tmp_path, to_line(record))
    (spool,) = find_orphaned_spools(tmp_path)
    spool.close()
    (again,) = find_orphaned_spools(tmp_path)

    assert again.records == [record]
    again.close()


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    whole = make_record()
    leave(tmp_path, to_line(whole), to_line(make_record())[:-30])
    (spool,) = find_orphaned_spools(tmp_path)

    assert spool.records == [whole]
    spool.close()


def test_a_file_that_was_removed_while_it_was_looked_at_is_none(tmp_path, monkeypatch):
    path = leave(tmp_path, to_line(make_record()))
    lock = fcntl.flock

    def lock_late(*args: int) -> None:
        lock(*args)
        path.unlink()

    monkeypatch.setattr(spool_module.fcntl, "flock", lock_late)

    assert list(find_orphaned_spools(tmp_path)) == []


def test_nobody_finds_a_file_before_its_owner_has_locked_it(tmp_path, monkeypatch):
    lock = fcntl.flock
    seen: list[bool] = []

    def look_and_lock(file: int, how: int) -> None:
        monkeypatch.setattr(spool_module.fcntl, "flock", lock)
        seen.extend(True for _ in find_orphaned_spools(tmp_path))
        lock(file, how)

    monkeypatch.setattr(spool_module.fcntl, "flock", look_and_lock)
    spool = Spool(tmp_path)

    assert seen == []
    assert len(files(tmp_path)) == 1
    spool.shut_down()


def test_a_full_disk_costs_a_record_its_safety_and_no_other(tmp_path, monkeypatch, caplog):
    spool = Spool(tmp_path)
    lost, cut, kept = make_record(), make_record(), make_record()
    write = os.write

    def write_nothing(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(spool_module.os, "write", write_nothing)
        spool.keep(lost)
        full.setattr(spool_module.os, "write", lambda file, data: write(file, data[:50]))
        spool.keep(cut)
    spool.keep(kept)
    spool.shut_down()
    (spool,) = find_orphaned_spools(tmp_path)

    assert spool.records == [kept]
    assert caplog.text.count("could not be kept: No space left on device") == 2
    spool.close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "spool").write_text("no folder")
    with pytest.raises(OSError, match="exists"):
        Spool(tmp_path / "spool")
