import asyncio
import csv
import io
import os
import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.ports.administration import UsageQuery, UsageRow
from deployments.cli.usage import main
from deployments.ledger.records import UsageRecord
from deployments.ledger.store.database import Database, default_url
from deployments.ledger.store.keys import KeyStore
from deployments.ledger.store.usage import UsageStore
from tests.deployments.cli.conftest import Running
from tests.helpers.service import ROOT

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SUMS = shlex.split(
    "requests errors prompt_tokens cached_tokens completion_tokens reasoning_tokens images "
    "image_steps image_pixel_steps"
)


def record(time: datetime = NOON, **fields: Any) -> UsageRecord:
    usual: dict[str, Any] = {
        "request_id": "req_1",
        "key_id": "env-0",
        "tenant": "acme",
        "endpoint": "chat/completions",
        "model": "llm",
        "kind": "llm",
        "prompt_tokens": 10,
        "total_ms": 12.5,
    }
    return UsageRecord(time_s=time.timestamp(), **{**usual, **fields})


def store(*records: UsageRecord, key_name: str = "app") -> str:
    """Fill the home's database with a key and records; return the key's id."""

    async def work() -> str:
        database = Database(default_url())
        await database.migrate()
        key = (await KeyStore(database, b"pepper").create_key({"name": key_name})).key
        await UsageStore(database).add(records)
        await database.close()
        return key.id

    return asyncio.run(work())


def run(capsys: pytest.CaptureFixture[str], arguments: str) -> list[str]:
    """Run the command and return the lines of its report."""
    assert main(arguments.split()) == 0
    return capsys.readouterr().out.splitlines()


def test_script_prints_a_table(home: Path) -> None:
    store(record(), record(error_code="engine_error"))
    command = [ROOT / "scripts" / "usage", "--month", "2026-11", "--by", "day,model"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd="/")
    header, row = done.stdout.splitlines()

    assert done.returncode == 0, done.stderr
    assert header.split() == ["DAY", "MODEL", *(name.upper() for name in SUMS)]
    assert row.split() == ["2026-11-22", "llm", "2", "1", "20", "0", "0", "0", "0", "0", "0"]
    assert len(header) == len(row)


def test_this_month_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    store(record(now), record(now.replace(day=1, hour=0)), record(now - timedelta(days=32)))
    lines = run(capsys, "--by tenant")

    assert lines[1].split()[:2] == ["acme", "2"]


@pytest.mark.parametrize(
    ("options", "requests"),
    [
        ("--month 2026-11", 3),
        ("--from 2026-11-22 --to 2026-11-22", 1),
        ("--from 2026-11-22 --to 2026-11-30", 2),
        ("--from 2026-10-31 --to 2026-11-01", 2),
        ("--month 2026-10", 1),
    ],
)
def test_report_covers_the_days_of_its_period(
    options: str, requests: int, capsys: pytest.CaptureFixture[str]
) -> None:
    midnight = datetime(2026, 11, 1, tzinfo=UTC)
    store(
        record(),
        record(midnight),
        record(midnight - timedelta(seconds=1)),
        record(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)),
    )

    assert run(capsys, f"{options} --by tenant")[1].split()[1] == str(requests)


@pytest.mark.parametrize("options", ["--month 9999-12", "--to 9999-12-31"])
def test_last_day_of_the_calendar_is_accepted(
    options: str, service: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    store(record(datetime.now(UTC)))
    lines = run(capsys, f"{options} --by tenant")
    status = main([*options.split(), "--url", service.url])

    assert len(lines) == (2 if options.startswith("--to") else 1)
    assert status == 1
    assert "must be a day" in capsys.readouterr().err  # the API has no such year


def test_csv_quotes_text_that_a_spreadsheet_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    key_id = store()
    store(record(key_id=key_id, user='=cmd|"!A0"'), record(user="-1"), key_name="other")
    text = "\n".join(run(capsys, "--month 2026-11 --by user,key --csv"))
    rows = list(csv.DictReader(io.StringIO(text)))

    assert list(rows[0]) == ["user", "key_id", "key_name", *SUMS]
    assert [row["user"] for row in rows] == ["'-1", '\'=cmd|"!A0"']
    assert [(row["key_id"], row["key_name"]) for row in rows] == [("env-0", ""), (key_id, "app")]
    assert [row["prompt_tokens"] for row in rows] == ["10", "10"]


@pytest.mark.parametrize(
    ("options", "requests"),
    [("--key app", 1), ("--key env-0", 2), ("--tenant other", 1), ("--model llm", 3)],
)
def test_filter_selects_requests(
    options: str, requests: int, capsys: pytest.CaptureFixture[str]
) -> None:
    key_id = store()
    store(record(key_id=key_id), record(tenant="other"), record(), key_name="second")

    assert run(capsys, f"--month 2026-11 --by kind {options}")[1].split()[1] == str(requests)


def test_table_without_records_is_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    (header,) = run(capsys, "")

    assert header.split()[:4] == ["DAY", "KEY_ID", "KEY_NAME", "MODEL"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("--month 2026-11 --to 2026-11-22", "--month says both"),
        ("--from 2026-11-22 --to 2026-11-21", "--to 2026-11-21 is before --from 2026-11-22"),
    ],
)
def test_contradictory_period_is_refused(
    options: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options.split()) == 1
    assert error in capsys.readouterr().err


@pytest.mark.parametrize("options", ["--by hour", "--by day,day", "--by", "--month 11", "--to x"])
def test_wrong_usage_is_explained(options: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(options.split())

    assert capsys.readouterr().err.startswith("usage: triptych usage")


def test_url_reports_usage_of_a_running_service(
    service: Running, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sums = dict.fromkeys(SUMS, 0) | {"requests": 3}
    service.administration.rows = [UsageRow(model="llm", **sums)]
    options = "--from 2026-11-01 --to 2026-11-22 --by model --key é#1 --tenant a&b --model org/m"
    lines = run(capsys, f"{options} --url {service.url}")
    from_s, to_s = (datetime(2026, 11, day, tzinfo=UTC).timestamp() for day in (1, 23))

    assert lines[1].split()[:2] == ["llm", "3"]
    assert service.administration.queries == [
        UsageQuery(from_s, to_s, ("model",), "é#1", "a&b", "org/m")
    ]
    assert not home.exists()
