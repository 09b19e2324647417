import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from api.ports.images import Edit
from api.ports.tenancy import Key
from api.settings import Limits
from tests.helpers.asgi import Exchange, Response
from tests.helpers.fakes import PAINTER, SECRET, FakeLimiter, FakePainter, build_app, keys_of

URL = "/v1/images/edits"
FIELDS = {"model": PAINTER, "prompt": "a dot"}
PNG = b"\x89PNG\r\n\x1a\n and more"
JPEG = b"\xff\xd8\xff and more"
BOUNDARY = "b0undary"

Part = tuple[str, bytes]


def to_part(name: str, data: bytes, filename: str | None = None, more: bytes = b"") -> bytes:
    said = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    head = f"--{BOUNDARY}\r\nContent-Disposition: {said}\r\n".encode()
    return head + more + b"\r\n" + data + b"\r\n"


def to_body(fields: Mapping[str, str], files: Sequence[Part]) -> bytes:
    parts = [to_part(name, value.encode()) for name, value in fields.items()]
    parts += [to_part(name, data, "a.png") for name, data in files]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


async def send(
    body: bytes,
    painter: FakePainter | None = None,
    content_type: str = f"multipart/form-data; boundary={BOUNDARY}",
    **services: object,
) -> Response:
    app = build_app(painter=painter, **services)
    headers = {"content-type": content_type, "authorization": f"Bearer {SECRET}"}
    async with Exchange(app, "POST", URL, headers=headers, chunks=[body]) as exchange:
        return await exchange.end()


async def ask(
    painter: FakePainter | None = None, files: Sequence[Part] = (("image", PNG),), **fields: str
) -> Response:
    return await send(to_body({**FIELDS, **fields}, files), painter)


async def test_form_reaches_the_model() -> None:
    painter = FakePainter()
    files = [("image", PNG), ("mask", JPEG)]

    response = await ask(
        painter,
        files,
        strength="0.5",
        n="2",
        size="64x48",
        seed="9223372036854775807",
        guidance_scale="2",
        true_cfg_scale="1.5",
        num_inference_steps="4",
        output_format="webp",
        user="ann",
    )
    (received,) = painter.requests

    assert response.status == 200
    assert received.edit == Edit(PNG, JPEG, 0.5)
    assert (received.n, received.width_px, received.seed, received.guidance_scale) == (
        2,
        64,
        2**63 - 1,
        2.0,
    )
    assert (received.context.endpoint, received.context.user) == ("images/edits", "ann")
    assert received.true_cfg_scale == 1.5
    assert len(response.json()["data"]) == 2


async def test_image_may_be_sent_as_an_array() -> None:
    painter = FakePainter()

    await ask(painter, [("image[]", PNG)])

    assert painter.requests[0].edit == Edit(PNG)


async def test_stream_of_an_edit_has_its_own_event_names() -> None:
    response = await ask(stream="true", partial_images="1")
    text = b"".join(response.chunks).decode()

    assert "event: image_edit.partial_image\n" in text
    assert text.endswith("\n\n")
    assert "event: image_edit.completed\n" in text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": "two"}, "n"),
        ({"n": "1.5"}, "n"),
        ({"n": "0"}, "n"),
        ({"seed": "1" * 40}, "seed"),
        ({"strength": "0"}, "strength"),
        ({"strength": "1.1"}, "strength"),
        ({"strength": "nan"}, "strength"),
        ({"stream": "yes"}, "stream"),
        ({"size": "big"}, "size"),
    ],
)
async def test_invalid_value_of_a_field_returns_400(fields: dict[str, str], param: str) -> None:
    response = await ask(None, **fields)

    assert response.error() == (400, "invalid_value", param)


async def test_unknown_field_returns_400() -> None:
    assert (await ask(colour="red")).error() == (400, "unknown_parameter", "colour")


async def test_unsupported_field_returns_400() -> None:
    response = await ask(input_fidelity="high")

    assert response.error() == (400, "unsupported_parameter", "input_fidelity")


async def test_repeated_field_returns_400() -> None:
    body = to_part("prompt", b"another") + to_body(FIELDS, [("image", PNG)])

    assert (await send(body)).error() == (400, "invalid_value", "prompt")


async def test_missing_image_returns_400() -> None:
    assert (await ask(files=[])).error() == (400, "missing_required_parameter", "image")


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ([("image", b"GIF89a")], "image"),
        ([("image", b"")], "image"),
        ([("image", PNG), ("image[]", PNG)], "image"),
        ([("image", PNG), ("mask", b"RIFF    WAVE")], "mask"),
        ([("image", PNG), ("other", PNG)], "other"),
    ],
)
async def test_file_that_cannot_be_used_returns_400(files: list[Part], param: str) -> None:
    assert (await ask(files=files)).error() == (400, "invalid_image_file", param)


async def test_file_over_the_limit_returns_400() -> None:
    body = to_body(FIELDS, [("image", PNG + bytes(2000))])

    response = await send(body, limits=Limits(max_input_image_bytes=1024))

    assert response.error() == (400, "invalid_image_file", "image")


async def test_body_over_the_limit_returns_413() -> None:
    body = to_body(FIELDS, [("image", PNG + bytes(2000))])

    response = await send(body, limits=Limits(max_upload_bytes=1024))

    assert response.error() == (413, "payload_too_large", None)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "audio/wav", "image/png", "application/x-www-form-urlencoded", ""],
)
async def test_wrong_content_type_returns_415(content_type: str) -> None:
    response = await send(to_body(FIELDS, [("image", PNG)]), None, content_type)

    assert response.error() == (415, "unsupported_media_type", None)


@pytest.mark.parametrize(
    "charset", ["punycode", '"punycode"', "undefined", "utf-16", "UTF-8;charset=idna"]
)
async def test_form_in_another_charset_returns_415(charset: str) -> None:
    """Python would take a quarter of a minute for this field in `punycode`, and hold up all."""
    body = to_body({**FIELDS, "prompt": "abcd" * 30_000 + "-" + "a" * 130_000}, [("image", PNG)])
    content_type = f"multipart/form-data; boundary={BOUNDARY}; charset={charset}"

    began_s = time.process_time()
    response = await send(body, None, content_type)

    assert time.process_time() - began_s < 1.0
    assert response.error() == (415, "unsupported_media_type", None)


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"'])
async def test_form_declared_as_utf_8_is_accepted(charset: str) -> None:
    painter = FakePainter()
    body = to_body({**FIELDS, "prompt": "ein Kreis, größer 😀"}, [("image", PNG)])

    await send(body, painter, f"multipart/form-data; boundary={BOUNDARY}; charset={charset}")

    assert painter.requests[0].prompt == "ein Kreis, größer 😀"


async def test_compressed_form_returns_415() -> None:
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    headers["content-encoding"] = "gzip"
    async with Exchange(build_app(), "POST", URL, headers=headers) as exchange:
        response = await exchange.end()

    assert response.error() == (415, "unsupported_media_type", None)


@pytest.mark.parametrize(
    "body",
    [
        b"".join(to_part(f"f{number}", b"1") for number in range(10_000)),
        b"".join(to_part("image", PNG, "a.png") for _ in range(10_000)),
        to_part("prompt", b"x", more=b"x: y\r\n" * 100_000),
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
    response = await send(body, painter)

    assert time.process_time() - began_s < 1.0
    assert response.status in (400, 413)
    assert response.error()[1] in ("invalid_json", "missing_required_parameter")
    assert painter.requests == []


async def test_form_without_a_boundary_returns_400() -> None:
    response = await send(b"", None, "multipart/form-data")

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
    """Nothing is written: not beside where the service runs, and not to where its home is."""
    painter = FakePainter()
    place = tmp_path / "some" / "where"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(tmp_path))
    body = to_part("image", PNG, name) + to_part("mask", PNG, str(tmp_path / "x"))

    response = await send(body + to_body(FIELDS, []), painter)

    assert response.status == 200
    assert painter.requests[0].edit == Edit(PNG, PNG)
    assert list_all(tmp_path) == [tmp_path / "some", place]


def list_all(folder: Path) -> list[Path]:
    return [*folder.rglob("*")]


async def test_large_file_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    painter = FakePainter()
    monkeypatch.delattr(tempfile.SpooledTemporaryFile, "rollover")  # what would write it to a disk
    large = PNG + bytes(9_000_000)

    await ask(painter, [("image", large), ("mask", large)])

    assert painter.requests[0].edit == Edit(large, large)


@pytest.mark.parametrize(
    "data",
    [b"RIFF\x24\0\0\0WAVEfmt ", b"ID3\x04", b"OggS\0", b"fLaC", b"%PDF-1.7", b"<svg/>", b"II*\0"],
)
@pytest.mark.parametrize("said", ["image/png", "audio/wav"])
async def test_file_that_is_not_an_image_returns_400_whatever_its_type(
    data: bytes, said: str
) -> None:
    part = to_part("image", data, "a.png", more=f"Content-Type: {said}\r\n".encode())

    response = await send(part + to_body(FIELDS, []))

    assert response.error() == (400, "invalid_image_file", "image")


async def test_image_is_recognised_by_its_bytes_and_not_by_its_type() -> None:
    painter = FakePainter()
    part = to_part("image", PNG, "a.wav", more=b"Content-Type: audio/wav\r\n")

    await send(part + to_body(FIELDS, []), painter)

    assert painter.requests[0].edit == Edit(PNG)


async def test_form_that_does_not_arrive_returns_408() -> None:
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    app = build_app(limits=Limits(body_timeout_s=0.01))
    async with Exchange(app, "POST", URL, headers=headers, chunks=None) as exchange:
        response = await exchange.end()

    assert response.error() == (408, "request_timeout", None)


async def test_disconnect_during_the_form_sends_nothing() -> None:
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    async with Exchange(build_app(), "POST", URL, headers=headers, chunks=None) as exchange:
        exchange.send_chunk(to_part("prompt", b"x"), more=True)
        exchange.disconnect()
        response = await exchange.end()

    assert response.messages == []


async def test_key_needs_the_scope() -> None:
    keys = keys_of(Key("k", "k", "t", scopes=frozenset({"chat"})))

    response = await send(to_body(FIELDS, [("image", PNG)]), keys=keys)

    assert response.error() == (403, "insufficient_permissions", None)


async def test_images_count_against_the_limits_of_the_key() -> None:
    from api.ports.tenancy import KeyLimits

    limiter = FakeLimiter()
    keys = keys_of(Key("k", "k", "t", limits=KeyLimits(images_per_minute=9)))

    await send(to_body({**FIELDS, "n": "3"}, [("image", PNG)]), keys=keys, limiter=limiter)

    assert [images for _, images in limiter.calls] == [3]
    assert limiter.released == [[3]]
