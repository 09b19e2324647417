import pytest

from api.ports.images import Edit
from api.ports.tenancy import Key, KeyLimits
from api.settings import Limits
from tests.helpers.edit_forms import FIELDS, JPEG, PNG, File, edit, send_edit, to_body, to_part
from tests.helpers.fakes import FakeLimiter, FakePainter, keys_of


async def test_form_reaches_the_model() -> None:
    painter = FakePainter()
    files = [("image", PNG), ("mask", JPEG)]

    response = await edit(
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

    await edit(painter, [("image[]", PNG)])

    assert painter.requests[0].edit == Edit(PNG)


async def test_stream_of_an_edit_has_its_own_event_names() -> None:
    response = await edit(stream="true", partial_images="1")
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
    response = await edit(None, **fields)

    assert response.error() == (400, "invalid_value", param)


async def test_unknown_field_returns_400() -> None:
    assert (await edit(colour="red")).error() == (400, "unknown_parameter", "colour")


async def test_unsupported_field_returns_400() -> None:
    response = await edit(input_fidelity="high")

    assert response.error() == (400, "unsupported_parameter", "input_fidelity")


async def test_missing_image_returns_400() -> None:
    assert (await edit(files=[])).error() == (400, "missing_required_parameter", "image")


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
async def test_file_that_cannot_be_used_returns_400(files: list[File], param: str) -> None:
    assert (await edit(files=files)).error() == (400, "invalid_image_file", param)


async def test_file_over_the_limit_returns_400() -> None:
    body = to_body(FIELDS, [("image", PNG + bytes(2000))])

    response = await send_edit(body, limits=Limits(max_input_image_bytes=1024))

    assert response.error() == (400, "invalid_image_file", "image")


@pytest.mark.parametrize(
    "data",
    [b"RIFF\x24\0\0\0WAVEfmt ", b"ID3\x04", b"OggS\0", b"fLaC", b"%PDF-1.7", b"<svg/>", b"II*\0"],
)
@pytest.mark.parametrize("media_type", ["image/png", "audio/wav"])
async def test_file_that_is_not_an_image_returns_400_whatever_its_type(
    data: bytes, media_type: str
) -> None:
    part = to_part("image", data, "a.png", headers=f"Content-Type: {media_type}\r\n".encode())

    response = await send_edit(part + to_body(FIELDS, []))

    assert response.error() == (400, "invalid_image_file", "image")


async def test_image_is_recognised_by_its_bytes_and_not_by_its_type() -> None:
    painter = FakePainter()
    part = to_part("image", PNG, "a.wav", headers=b"Content-Type: audio/wav\r\n")

    await send_edit(part + to_body(FIELDS, []), painter)

    assert painter.requests[0].edit == Edit(PNG)


async def test_key_needs_the_scope() -> None:
    keys = keys_of(Key("k", "k", "t", scopes=frozenset({"chat"})))

    response = await send_edit(to_body(FIELDS, [("image", PNG)]), keys=keys)

    assert response.error() == (403, "insufficient_permissions", None)


async def test_images_count_against_the_limits_of_the_key() -> None:
    limiter = FakeLimiter()
    keys = keys_of(Key("k", "k", "t", limits=KeyLimits(images_per_minute=9)))

    await send_edit(to_body({**FIELDS, "n": "3"}, [("image", PNG)]), keys=keys, limiter=limiter)

    assert [images for _, images in limiter.calls] == [3]
    assert limiter.released == [[3]]
