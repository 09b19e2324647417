import asyncio
import json
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from api.access.key_format import digest
from api.ports.tenancy import KeyLimits
from deployments.cli.keys import main
from deployments.ledger.pepper import load_pepper
from deployments.ledger.store.database import Database, default_url
from deployments.ledger.store.keys import KeyStore
from tests.deployments.cli.conftest import Running
from tests.helpers.service import ROOT

FULL = shlex.split(
    "--tenant acme --model llm* org/encoder --model painter --scope chat --scope admin --rpm 1 "
    "--tpm 2 --ipm 3 --concurrency 4 --tokens-per-day 5 --tokens-per-month 6 --pixel-steps 7 "
    "--priority high --allow-prompt-log --expires 2099-01-01"
)
COLUMNS = shlex.split("ID NAME TENANT SCOPES MODELS LIMITS PRIORITY EXPIRES STATE")
SHOWN = {
    "tenant": "acme",
    "models": ["llm*", "org/encoder", "painter"],
    "scopes": ["admin", "chat"],
    "limits": {
        "requests_per_minute": 1,
        "tokens_per_minute": 2,
        "images_per_minute": 3,
        "concurrent_requests": 4,
        "tokens_per_day": 5,
        "tokens_per_month": 6,
        "pixel_steps_per_minute": 7,
    },
    "priority": "high",
    "may_log_prompts": True,
    "expires_at": 4_070_908_800,
}


def audited(home: Path) -> list[dict[str, Any]]:
    lines = (home / "logs" / "audit.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Return the JSON of one key."""
    capsys.readouterr()
    assert main(["show", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_script_prints_only_the_key_to_stdout(home: Path) -> None:
    command = [ROOT / "scripts" / "keys", "create", "--name", "app"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd="/")

    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"sk-triptych-[A-Za-z0-9]{8}-[A-Za-z0-9_-]{50}\n", done.stdout)
    assert "shown once: app (" in done.stderr
    assert stat.S_IMODE((home / "triptych.db").stat().st_mode) == 0o600


def test_created_key_has_the_fields_of_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["create", "--name", "app", *FULL]) == 0
    shown = show(capsys, "app")

    assert shown == shown | SHOWN


def test_set_changes_only_given_fields(capsys: pytest.CaptureFixture[str]) -> None:
    main(["create", "--name", "app", *FULL])
    before = show(capsys, "app")
    options = shlex.split("--rpm none --tpm 20 --expires none --no-allow-prompt-log --name new")
    assert main(["set", "app", *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    limits = SHOWN["limits"] | {"requests_per_minute": None, "tokens_per_minute": 20}  # type: ignore[operator]
    changes = {"name": "new", "limits": limits, "expires_at": None, "may_log_prompts": False}

    assert printed == show(capsys, "new") == before | changes


def store_expired_key(name: str) -> None:
    """Store a key that ended in 1999; the command refuses to make one."""

    async def work() -> None:
        database = Database(default_url())
        fields = {"name": name, "expires_at_s": 915_148_800}
        await KeyStore(database, load_pepper()).create_key(fields)
        await database.close()

    asyncio.run(work())


def test_list_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["create", "--name", "first app", "--rpm", "5", "--tokens-per-day", "7"])
    store_expired_key("b")
    main(["disable", "first app"])
    capsys.readouterr()
    assert main(["list"]) == 0
    header, first, second = capsys.readouterr().out.splitlines()

    assert header.split() == COLUMNS
    assert first[header.index("NAME") :].startswith("first app  first app  chat,embeddings,images")
    assert first[header.index("LIMITS") :].startswith("rpm=5 tokens_per_day=7")
    assert first.endswith("disabled")
    assert second[header.index("LIMITS") :].startswith("- ")
    assert second[header.index("EXPIRES") :] == "1999-01-01 00:00  expired"


def test_rotate_prints_the_new_secret(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["create", "--name", "app"])
    old = capsys.readouterr().out.strip()
    assert main(["rotate", "app", "--grace", "0"]) == 0
    assert audited(home)[-1]["grace_s"] == 0
    capsys.readouterr()
    assert main(["rotate", "app", "--grace", "1h"]) == 0
    new = capsys.readouterr().out.strip()

    assert old != new
    assert old[:21] == new[:21], "the prefix and the id"
    assert audited(home)[-1]["grace_s"] == 3600


def test_key_is_disabled_enabled_and_deleted(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["create", "--name", "app"])
    main(["disable", "app"])
    assert show(capsys, "app")["disabled"]
    main(["enable", "app"])
    assert not show(capsys, "app")["disabled"]
    assert main(["delete", "app"]) == 0

    assert main(["show", "app"]) == 1
    assert [event["event"] for event in audited(home)] == [
        "key_created",
        "key_disabled",
        "key_enabled",
        "key_deleted",
    ]
    assert {event["actor"] for event in audited(home)} == {"cli"}


def test_audit_log_contains_no_secret(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["create", "--name", "app"])
    main(["rotate", "app"])
    printed = capsys.readouterr().out.split()
    pepper = (home / "pepper").read_bytes().strip()
    log = (home / "logs" / "audit.jsonl").read_text()

    assert len(printed) == 2
    assert not any(key[21:] in log or digest(pepper, key).hex() in log for key in printed)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("show nothing", "There is no API key with the id or name 'nothing'."),
        ("create --name app", "There is a key named 'app' already."),
        (
            "set app --rpm 0",
            "Invalid value for --rpm: input should be greater than or equal to 1.",
        ),
        ("create --name b --tokens-per-day 0", "Invalid value for --tokens-per-day: input"),
        ("create --name b/c", "Invalid value for --name: must be printable"),
        ("create --name b --model c dé", "Invalid value for --model: string should match"),
        ("rotate app --grace 99w", "Invalid value for --grace: input should be less than"),
        ("list --database mysql://u:opensesame@h/d", "a database URL begins with"),
        ("list --database sqlite://", "an SQLite database needs a file: sqlite:///FILE"),
        ("list --database postgresql://u:opensesame@127.0.0.1:1/d", "Connect call failed"),
        ("list --url http://127.0.0.1:1", "--url needs an admin key in the environment variable"),
    ],
)
def test_failure_is_one_line(
    arguments: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["create", "--name", "app"])
    capsys.readouterr()
    status = main(arguments.split())
    printed = capsys.readouterr()

    assert status == 1
    assert printed.out == ""
    assert printed.err.startswith("triptych keys: ")
    assert error in printed.err
    assert printed.err.count("\n") == 1
    assert "opensesame" not in printed.err


def test_short_pepper_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIPTYCH_PEPPER", "short")

    assert main(["list"]) == 1
    assert "TRIPTYCH_PEPPER: at least 32 characters" in capsys.readouterr().err


def test_home_that_cannot_be_made_is_a_failure(
    home: Path, capsys: pytest.CaptureFixture[str], database_url: str
) -> None:
    home.write_text("")

    assert main(["list", "--database", database_url]) == 1
    assert str(home) in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "create",
        "show",
        "create --name a --rpm many",
        "create --name a --scope root",
        "create --name a --expires soon",
        "create --name a --expires 1999-01-01",
        "rotate a --grace long",
        "list --url http://h --database sqlite:///f",
        "list --url=",
        "list --database=",
    ],
)
def test_wrong_usage_is_explained(
    arguments: str, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments.split())

    assert capsys.readouterr().err.startswith("usage: triptych keys")
    assert not home.exists()


def test_database_option_names_another_database(
    database_url: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["create", "--name", "app", *FULL, "--database", database_url])
    shown = show(capsys, "app", "--database", database_url)

    assert shown == shown | SHOWN
    assert not (home / "triptych.db").exists()


def test_url_administers_a_running_service(
    service: Running, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--url", service.url)
    assert main(["create", "--name", "app", *FULL, *at]) == 0
    assert capsys.readouterr().out == "secret 1\n"
    assert show(capsys, "app", *at) == show(capsys, "app", *at) | SHOWN
    assert main(["set", "app", "--rpm", "none", *at]) == 0
    assert main(["rotate", "app", "--grace", "1h", *at]) == 0
    assert main(["disable", "app", *at]) == 0
    (key,) = service.administration.keys.values()
    assert main(["delete", "app", *at]) == 0

    assert key.limits == KeyLimits(None, 2, 3, 4, 5, 6, 7)
    assert key.is_disabled
    assert service.administration.graces_s == [3600]
    assert service.administration.keys == {}
    assert not home.exists()
