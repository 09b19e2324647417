"""Tested through `POST /v1/images/edits`, the only endpoint that takes a form."""

import asyncio
import tempfile
import time
from pathlib import Path

import pytest

from api.ports.images import Edit
from api.settings import Limits
from tests.helpers.asgi import Exchange
from tests.helpers.edit_forms import (
    FIELDS,
    MEDIA_TYPE,
    PNG,
    URL,
    send_edit,
    to_body,
    to_part,
)
from tests.helpers.fakes import FakePainter, build_app


def list_all(folder: Path) -> list[Path]:
    return [*folder.rglob("*")]


async def test_repeated_field_returns_400() -> None:
    body = to_part("prompt", b"another") + to_body(FIELDS, [("image", PNG)])

    assert (await send_edit(body)).error() == (400, "invalid_value", "prompt")


async def test_body_over_the_limit_returns_413() -> None:
    body = to_body(FIELDS, [("image", PNG + bytes(2000))])

    response = await send_edit(body, limits=Limits(max_upload_bytes=1024))

    assert response.error() == (413, "payload_too_large", None)


@pytest.mark.parametrize(
    "body",
    [
        to_body(dict.fromkeys(map(str, range(80)), "x"), []),
        b"no form",
        to_part("a", b"", None, b":"),
    ],
    ids=["fields", "no-form", "header"],
)
async def test_refused_form_leaves_no_task(body: bytes) -> None:
    """A generator that nobody closes is closed in a task of its own, some time later."""
    assert (await send_edit(body)).error()[0] == 400
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "audio/wav", "image/png", "application/x-www-form-urlencoded", ""],
)
async def test_wrong_content_type_returns_415(content_type: str) -> None:
    response = await send_edit(to_body(FIELDS, [("image", PNG)]), None, content_type)

    assert response.error() == (415, "unsupported_media_type", None)


@pytest.mark.parametrize(
    "charset", ["punycode", '"punycode"', "undefined", "utf-16", "UTF-8;charset=idna"]
)
async def test_form_in_another_charset_returns_415(charset: str) -> None:
    """Python takes 15 s for this field in `punycode`, which blocks the event loop."""
    body = to_body({**FIELDS, "prompt": "abcd" * 30_000 + "-" + "a" * 130_000}, [("image", PNG)])
    content_type = f"{MEDIA_TYPE}; charset={charset}"

    began_s = time.process_time()
    response = await send_edit(body, None, content_type)

    assert time.process_time() - began_s < 1.0
    assert response.error() == (415, "unsupported_media_type", None)


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"'])
async def test_form_declared_as_utf_8_is_accepted(charset: str) -> None:
    painter = FakePainter()
    body = to_body({**FIELDS, "prompt": "ein Kreis, größer 😀"}, [("image", PNG)])

    await send_edit(body, painter, f"{MEDIA_TYPE}; charset={charset}")

    assert painter.requests[0].prompt == "ein Kreis, größer 😀"


async def test_compressed_form_returns_415() -> None:
    headers = {"content-type": MEDIA_TYPE}
    headers["content-encoding"] = "gzip"
    async with Exchange(build_app(), "POST", URL, headers=headers) as exchange:
        response = await exchange.end()

    assert response.error() == (415, "unsupported_media_type", None)


@pytest.mark.parametrize(
    "body",
    [
        b"".join(to_part(f"f{number}", b"1") for number in range(10_000)),
        b"".join(to_part("image", PNG, "a.png") for _ in range(10_000)),
        to_part("prompt", b"x", headers=b"x: y\r\n" * 100_000),
        b"\r\n" * 2_500_000,
        to_part("prompt", b"x" * 2_000_000),
        b"no form at all",
        b"",
    ],
    ids=["fields", "files", "headers", "preamble", "long field", "no form", "nothing"],
)
async def test_hostile_form_is_refused_within_a_second(body: bytes) -> None:
    painter = FakePainter()

    began_s = time.process_time()
    response = await send_edit(body, painter)

    assert time.process_time() - began_s < 1.0
    assert response.status in (400, 413)
    assert response.error()[1] in ("invalid_json", "missing_required_parameter")
    assert painter.requests == []


async def test_form_without_a_boundary_returns_400() -> None:
    response = await send_edit(b"", None, "multipart/form-data")

    assert response.status == 400


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/cron.d/x",
        "../x",
        "..\\..\\x",
        "C:\\x",
        "x" * 1000,
        "%2e%2e%2fx",
        "~/x",
        "a;b=c",
    ],
    ids=lambda name: name[:16],
)
async def test_file_name_is_ignored(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written in the working directory, its parents or the home directory."""
    painter = FakePainter()
    working_directory = tmp_path / "some" / "where"
    working_directory.mkdir(parents=True)
    monkeypatch.chdir(working_directory)
    monkeypatch.setenv("HOME", str(tmp_path))
    body = to_part("image", PNG, name) + to_part("mask", PNG, str(tmp_path / "x"))

    response = await send_edit(body + to_body(FIELDS, []), painter)

    assert response.status == 200
    assert painter.requests[0].edit == Edit(PNG, PNG)
    assert list_all(tmp_path) == [tmp_path / "some", working_directory]


async def test_large_file_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    painter = FakePainter()
    monkeypatch.delattr(tempfile.SpooledTemporaryFile, "rollover")  # writes the file to the disk
    large = PNG + bytes(9_000_000)

    await send_edit(to_body(FIELDS, [("image", large), ("mask", large)]), painter)

    assert painter.requests[0].edit == Edit(large, large)


async def test_form_that_does_not_arrive_returns_408() -> None:
    headers = {"content-type": MEDIA_TYPE}
    app = build_app(limits=Limits(body_timeout_s=0.01))
    async with Exchange(app, "POST", URL, headers=headers, chunks=None) as exchange:
        response = await exchange.end()

    assert response.error() == (408, "request_timeout", None)


async def test_disconnect_during_the_form_sends_nothing() -> None:
    headers = {"content-type": MEDIA_TYPE}
    async with Exchange(build_app(), "POST", URL, headers=headers, chunks=None) as exchange:
        exchange.send_chunk(to_part("prompt", b"x"), more=True)
        exchange.disconnect()
        response = await exchange.end()

    assert response.messages == []
