"""The files by which `scripts/serve` drains an ingress replica."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.errors import ServiceStoppingError
from api.http.draining import Draining
from deployments.ingress.drain_watch import watch_for_drain


@contextlib.asynccontextmanager
async def watching(folder: Path) -> AsyncIterator[Draining]:
    draining = Draining()
    task = asyncio.create_task(watch_for_drain(folder, draining, interval_s=0.01))
    await asyncio.sleep(0)
    try:
        yield draining
    finally:
        task.cancel()


def drain(folder: Path, seconds: float, text: str | None = None) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "until").write_text(text or str(time.time() + seconds))


async def until_said(folder: Path, requests: int) -> None:
    count = folder / f"{os.getpid()}.requests"
    async with asyncio.timeout(5):
        while not count.exists() or count.read_text() != str(requests):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def is_refused(draining: Draining) -> bool:
    try:
        with draining.admit():
            return False
    except ServiceStoppingError:
        return True


async def test_replica_refuses_requests_and_says_how_many_are_left(tmp_path: Path) -> None:
    folder = tmp_path / "drain"
    async with watching(folder) as draining:
        assert not is_refused(draining)
        with draining.admit():
            drain(folder, 60)
            await until_said(folder, 1)
            assert is_refused(draining)
        await until_said(folder, 0)

    assert draining.to_error() is None


async def test_requests_are_ended_at_the_time(tmp_path: Path) -> None:
    async with watching(tmp_path / "drain") as draining:
        drain(tmp_path / "drain", 0)
        await until_said(tmp_path / "drain", 0)

    assert draining.to_error() is not None


@pytest.mark.parametrize("text", ["", "soon"])
async def test_file_without_a_time_is_ignored(tmp_path: Path, text: str) -> None:
    async with watching(tmp_path / "drain") as draining:
        drain(tmp_path / "drain", 0, text or " ")
        await asyncio.sleep(0.05)

        assert not is_refused(draining)


async def test_file_of_an_earlier_service_is_ignored(tmp_path: Path) -> None:
    drain(tmp_path / "drain", 60)
    os.utime(tmp_path / "drain" / "until", (1, 1))
    async with watching(tmp_path / "drain") as draining:
        await asyncio.sleep(0.05)

        assert not is_refused(draining)
