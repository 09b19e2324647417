import asyncio
import os
from pathlib import Path

import pytest

from api.errors import ImageStoreError
from deployments.config.ingress import ImageStoreArgs
from deployments.ingress.image_store import ImageFolder


def build(folder: Path, clock: list[float], **more) -> ImageFolder:
    return ImageFolder(ImageStoreArgs(folder=str(folder), **more), lambda: clock[0])


async def test_stored_image_is_found(tmp_path: Path) -> None:
    store = build(tmp_path / "images", [1000.0], base_url="https://a.example")

    name = await store.keep(b"an image", "webp")

    assert await store.find(name) == b"an image"
    assert (len(name), name[22:]) == (27, ".webp")
    assert store.base_url == "https://a.example"


async def test_names_are_unique(tmp_path: Path) -> None:
    store = build(tmp_path, [1000.0])

    assert len({await store.keep(b"x", "png") for _ in range(20)}) == 20


async def test_only_the_owner_can_read(tmp_path: Path) -> None:
    store = build(tmp_path / "images", [1000.0])

    name = await store.keep(b"x", "png")

    assert (tmp_path / "images").stat().st_mode & 0o077 == 0
    assert (tmp_path / "images" / name).stat().st_mode & 0o077 == 0


async def test_expired_image_is_not_found(tmp_path: Path) -> None:
    clock = [1000.0]
    store = build(tmp_path, clock, expires_s=10)
    name = await store.keep(b"x", "png")

    clock[0] = 1010.0

    assert await store.find(name) is None


async def test_storing_removes_expired_files(tmp_path: Path) -> None:
    clock = [1000.0]
    store = build(tmp_path, clock, expires_s=10)
    await store.keep(b"x", "png")

    clock[0] = 1011.0
    name = await store.keep(b"y", "png")

    assert os.listdir(tmp_path) == [name]


async def test_oldest_files_are_removed_above_the_total_size(tmp_path: Path) -> None:
    clock = [1000.0]
    store = build(tmp_path, clock, max_bytes=2500)
    names = []
    for _ in range(3):
        names.append(await store.keep(bytes(1000), "png"))
        clock[0] += 1

    assert [await store.find(name) is not None for name in names] == [False, True, True]
    assert len(os.listdir(tmp_path)) == 2


async def test_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    store = build(tmp_path / "images", [1000.0])

    assert await store.find("../secret.png") is None
    assert await store.find("a" * 22 + ".png") is None


async def test_existing_folder_keeps_its_images(tmp_path: Path) -> None:
    clock = [1000.0]
    name = await build(tmp_path, clock).keep(b"x", "png")

    assert await build(tmp_path, clock).find(name) == b"x"


async def test_expired_files_are_removed_while_nothing_is_stored(tmp_path: Path) -> None:
    clock = [1000.0]
    args = ImageStoreArgs(folder=str(tmp_path), expires_s=10)
    store = ImageFolder(args, lambda: clock[0], prune_interval_s=0.01)
    await store.keep(b"x", "png")
    clock[0] = 1011.0

    pruning = asyncio.create_task(store.prune_periodically())
    async with asyncio.timeout(5):
        while os.listdir(tmp_path):  # noqa: ASYNC110  # the files are changed by a thread
            await asyncio.sleep(0.01)
    pruning.cancel()


async def test_full_disk_is_a_clear_error_logged_once_and_leaves_no_half_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    store = build(tmp_path, [1000.0])
    with monkeypatch.context() as full:
        full.setattr(os, "utime", fail)  # when the file has been written in part
        for _ in range(2):
            with pytest.raises(ImageStoreError, match="b64_json"):
                await store.keep(b"an image", "png")
    left = os.listdir(tmp_path)
    name = await store.keep(b"an image", "png")

    assert left == []
    assert await store.find(name) == b"an image"
    assert caplog.text.count("images cannot be stored: No space left on device") == 1


async def test_expired_files_are_removed_again_when_the_folder_is_back(tmp_path: Path) -> None:
    clock = [1000.0]
    args = ImageStoreArgs(folder=str(tmp_path / "images"), expires_s=60)
    store = ImageFolder(args, lambda: clock[0], prune_interval_s=0.01)
    name = await store.keep(b"x", "png")
    (tmp_path / "images").rename(tmp_path / "away")
    pruning = asyncio.create_task(store.prune_periodically())
    await asyncio.sleep(0.05)
    (tmp_path / "away").rename(tmp_path / "images")
    clock[0] += 61
    async with asyncio.timeout(10):
        while name in os.listdir(tmp_path / "images"):  # noqa: ASYNC110  # a file
            await asyncio.sleep(0.01)

    assert not pruning.done()
    pruning.cancel()
