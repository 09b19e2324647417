"""The form for secrets: no value is accepted as it stands there."""

import asyncio
import subprocess
from pathlib import Path

import pytest
import yaml

from api.access.key_ring import to_entries
from deployments.ledger.limits.redis_url import find_redis_url
from deployments.ledger.pepper import load_pepper
from deployments.ledger.store.database import Database
from deployments.ledger.store.errors import StoreError
from tests.helpers.kustomize import find, render

FOLDER = Path(__file__).resolve().parents[3] / "deployments" / "kuberay"
SERVICE, REDIS = list(yaml.safe_load_all((FOLDER / "secret.yaml").read_text()))
VALUES = SERVICE["stringData"]


def test_form_has_the_secrets_that_the_manifests_name() -> None:
    assert [each["metadata"]["name"] for each in (SERVICE, REDIS)] == ["triptych", "triptych-redis"]
    assert {each["metadata"]["namespace"] for each in (SERVICE, REDIS)} == {"triptych"}
    assert set(VALUES) == {
        "TRIPTYCH_API_KEYS",
        "TRIPTYCH_PEPPER",
        "TRIPTYCH_DATABASE_URL",
        "TRIPTYCH_REDIS_URL",
    }
    assert set(REDIS["stringData"]) == {"password"}


def test_keys_of_the_form_are_refused() -> None:
    with pytest.raises(ValueError, match="an API key is"):
        to_entries(VALUES["TRIPTYCH_API_KEYS"].split(","), b"pepper")


def test_pepper_of_the_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_PEPPER", VALUES["TRIPTYCH_PEPPER"])

    with pytest.raises(ValueError, match="TRIPTYCH_PEPPER: at least 32"):
        load_pepper()


def test_database_of_the_form_is_refused() -> None:
    with pytest.raises(StoreError, match="a database URL begins with"):
        Database(VALUES["TRIPTYCH_DATABASE_URL"])


def test_redis_of_the_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_REDIS_URL", VALUES["TRIPTYCH_REDIS_URL"])

    with pytest.raises(ValueError, match="TRIPTYCH_REDIS_URL: a Redis URL"):
        find_redis_url(None)


def redis_command() -> list[str]:
    stateful_set = find(render(FOLDER / "base"), "StatefulSet", "triptych-redis")
    (container,) = stateful_set["spec"]["template"]["spec"]["containers"]
    command: list[str] = container["command"]
    return command


def test_password_of_the_form_is_refused() -> None:
    environment = {"REDIS_PASSWORD": REDIS["stringData"]["password"], "PATH": "/nowhere"}
    ended = subprocess.run(
        ["/bin/sh", *redis_command()[1:]], env=environment, capture_output=True, text=True
    )

    assert ended.returncode == 1
    assert "at least 32 characters" in ended.stderr


async def test_redis_starts_with_its_password_and_without_it_in_its_arguments(
    tmp_path: Path,
) -> None:
    """A program in the place of Redis shows what it is given."""
    password = "0123456789abcdef" * 2
    program = tmp_path / "redis-server"
    program.write_text('#!/bin/sh\necho "arguments: $*"\ncat\n')
    program.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        *redis_command(),
        env={"REDIS_PASSWORD": password, "PATH": f"{tmp_path}:/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()

    assert output.decode().splitlines() == [
        "arguments: -",
        "dir /data",
        "appendonly yes",
        "maxmemory-policy noeviction",
        f"requirepass {password}",
    ]
