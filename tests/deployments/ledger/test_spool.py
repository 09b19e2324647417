import fcntl
import os
import stat
from pathlib import Path

import pytest

from deployments.ledger import spool as spool_module
from deployments.ledger.spool import Spool, find_orphaned_spools
from tests.helpers.ledger_cluster import make_record, to_spool_line, write_orphan_spool


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_records_are_on_disk_until_all_are_recorded(tmp_path):
    spool = Spool(tmp_path / "spool")
    first, second = make_record(user="ann"), make_record(prompt_tokens=3)
    spool.append(first)
    spool.append(second)
    (path,) = files(tmp_path / "spool")
    assert path.read_bytes().split() == [
        to_spool_line(first).strip(),
        to_spool_line(second).strip(),
    ]

    spool.mark_recorded([first.id])
    assert path.stat().st_size
    spool.mark_recorded([second.id, "another's"])
    assert path.stat().st_size == 0

    third = make_record()
    spool.append(third)
    assert path.read_bytes().strip() == to_spool_line(third).strip()
    spool.shut_down()


def test_only_the_owner_can_read_the_file(tmp_path):
    spool = Spool(tmp_path / "spool")
    (path,) = files(tmp_path / "spool")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    spool.shut_down()


def test_shut_down_deletes_an_empty_file(tmp_path):
    spool = Spool(tmp_path)
    record = make_record()
    spool.append(record)
    spool.mark_recorded([record.id])
    spool.shut_down()

    assert files(tmp_path) == []


def test_unrecorded_file_is_found_after_its_replica_has_died(tmp_path):
    spool = Spool(tmp_path)
    record = make_record(user="ann", ttft_ms=1.5)
    spool.append(record)
    assert list(find_orphaned_spools(tmp_path)) == [], "its replica lives"
    spool.shut_down()
    (spool,) = find_orphaned_spools(tmp_path)
    assert spool.records == [record]
    assert list(find_orphaned_spools(tmp_path)) == [], "another reader has locked the file"
    spool.remove()

    assert files(tmp_path) == []


def test_closed_orphan_is_found_again(tmp_path):
    record = make_record()
    write_orphan_spool(tmp_path, to_spool_line(record))
    (spool,) = find_orphaned_spools(tmp_path)
    spool.close()
    (again,) = find_orphaned_spools(tmp_path)

    assert again.records == [record]
    again.close()


def test_file_that_cannot_be_read_is_skipped_and_unlocked(tmp_path):
    path = tmp_path / "x.jsonl"
    path.mkdir()  # a folder can be opened and locked, but not read

    assert list(find_orphaned_spools(tmp_path)) == []

    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


@pytest.mark.parametrize(
    "line",
    [to_spool_line(make_record())[:-30], b"\xff\xfe", b"\0" * 4096, b'{"id": 7}', b"[" * 2000],
    ids=["cut off", "not UTF-8", "zeros", "other members", "nested"],
)
def test_damaged_record_is_set_aside_and_the_others_count(tmp_path, line, caplog):
    first, last = make_record(), make_record()
    write_orphan_spool(tmp_path, to_spool_line(first), line + b"\n", to_spool_line(last))
    (spool,) = find_orphaned_spools(tmp_path)
    records = spool.records
    spool.remove()
    (aside,) = files(tmp_path)

    assert records == [first, last]
    assert aside.read_bytes().rstrip() == line.rstrip()
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert "1 damaged usage records" in caplog.text
    assert list(find_orphaned_spools(tmp_path)) == []


def test_full_disk_keeps_no_damaged_record_but_removes_the_spool(tmp_path, monkeypatch, caplog):
    write_orphan_spool(tmp_path, b"damaged\n")
    (spool,) = find_orphaned_spools(tmp_path)

    def write_nothing(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_nothing)
    spool.remove()

    assert list(find_orphaned_spools(tmp_path)) == []
    assert "cannot be set aside: No space left on device" in caplog.text


def test_file_removed_while_it_is_locked_is_skipped(tmp_path, monkeypatch):
    path = write_orphan_spool(tmp_path, to_spool_line(make_record()))
    lock = fcntl.flock

    def lock_late(*args: int) -> None:
        lock(*args)
        path.unlink()

    monkeypatch.setattr(spool_module.fcntl, "flock", lock_late)

    assert list(find_orphaned_spools(tmp_path)) == []


def test_file_is_not_found_before_its_owner_has_locked_it(tmp_path, monkeypatch):
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


def test_full_disk_loses_only_the_records_written_meanwhile(tmp_path, monkeypatch, caplog):
    spool = Spool(tmp_path)
    lost, cut, kept = make_record(), make_record(), make_record()
    write = os.write

    def write_nothing(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(spool_module.os, "write", write_nothing)
        spool.append(lost)
        full.setattr(spool_module.os, "write", lambda file, data: write(file, data[:50]))
        spool.append(cut)
    spool.append(kept)
    spool.shut_down()
    (spool,) = find_orphaned_spools(tmp_path)

    assert spool.records == [kept]
    assert caplog.text.count("cannot be spooled") == 1
    assert "No space left on device" in caplog.text
    spool.close()


def test_folder_that_cannot_be_created_raises(tmp_path):
    (tmp_path / "spool").write_text("no folder")
    with pytest.raises(OSError, match="exists"):
        Spool(tmp_path / "spool")
