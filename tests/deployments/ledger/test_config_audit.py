import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from deployments.ledger.audit_log import AuditLog
from deployments.ledger.config_audit import ConfigAudit


class FakeController:
    """Serve's account of the applications, or an error while it restarts."""

    def __init__(self) -> None:
        self.config: Any = {"args": {"id": "a"}}
        self.is_down = False
        self.looks = 0

    async def fetch_details(self) -> dict[str, Any]:
        self.looks += 1
        if self.is_down:
            raise OSError("the controller restarts")
        return {"applications": {"app": {"deployed_app_config": self.config}}}

    async def seen(self) -> None:
        """Return when the present state has been looked at."""
        before = self.looks
        async with asyncio.timeout(5):
            while self.looks < before + 2:  # noqa: ASYNC110  # another task's state
                await asyncio.sleep(0.001)


@pytest.fixture
def controller() -> FakeController:
    return FakeController()


@pytest.fixture
async def path(tmp_path: Path, controller: FakeController):
    """The audit log of a running audit."""
    path = tmp_path / "audit.jsonl"
    audit = ConfigAudit(AuditLog(path), controller.fetch_details, interval_s=0.001)
    task = asyncio.create_task(audit.run())
    yield path
    task.cancel()


def read_events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_each_configuration_is_written_once(path: Path, controller: FakeController):
    await controller.seen()
    await controller.seen()
    controller.config = {"args": {"id": "b"}}
    await controller.seen()
    first, second = read_events(path)

    assert (first["event"], first["before"]) == ("config_loaded", "")
    assert (second["event"], second["before"]) == ("config_loaded", first["hash"])
    assert second["hash"] != first["hash"]


async def test_restart_of_the_controller_is_no_change(path: Path, controller: FakeController):
    await controller.seen()
    controller.is_down = True
    await controller.seen()
    controller.is_down = False
    await controller.seen()

    assert len(read_events(path)) == 1


async def test_log_holds_a_digest_and_not_the_configuration(path: Path, controller: FakeController):
    controller.config = {"args": {"secret": "opensesame"}}
    await controller.seen()

    assert "opensesame" not in str(read_events(path))
