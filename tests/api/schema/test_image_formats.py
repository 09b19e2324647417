import pytest

from api.schema.image_formats import is_known_image


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBPVP8 "]
)
def test_signature_of_png_jpeg_and_webp_is_known(data: bytes) -> None:
    assert is_known_image(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG",
        b"\xff\xd8",
        b"GIF89a",
        b"RIFF\0\0\0\0WAVE",
        b"WEBP",
        b" \xff\xd8\xff",
        b"II*\0",
    ],
)
def test_other_signature_is_unknown(data: bytes) -> None:
    assert not is_known_image(data)
