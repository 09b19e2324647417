import pytest

from api.errors import InvalidRequestError
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.sizes import check_size, fit_size

OPTIONS = DiffusionOptions(size_multiple_px=16, min_size_px=32, max_size_px=128, max_pixels=8192)


@pytest.mark.parametrize("size", [(32, 32), (128, 64), (64, 128)])
def test_size_within_all_limits_is_valid(size: tuple[int, int]) -> None:
    check_size(*size, OPTIONS)


@pytest.mark.parametrize(
    ("size", "limit"),
    [
        ((40, 64), "multiples of 16"),
        ((64, 40), "multiples of 16"),
        ((16, 64), "minimum of 32x32"),
        ((144, 32), "limit of 128x128"),
        ((128, 128), "limit of 8192 pixels"),
    ],
)
def test_broken_limit_is_named(size: tuple[int, int], limit: str) -> None:
    with pytest.raises(InvalidRequestError, match=limit) as failure:
        check_size(*size, OPTIONS)

    assert failure.value.param == "size"


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((64, 64), (64, 64)),
        ((70, 66), (64, 64)),
        ((4472, 4472), (64, 64)),
        ((200, 100), (80, 48)),
        ((1000, 2000), (48, 80)),
        ((8, 8), (64, 64)),
        ((1000, 10), (128, 32)),
        ((1, 10_000), (32, 128)),
        ((10_000, 1), (128, 32)),
    ],
)
def test_edits_default_size_is_the_models_own_with_the_images_aspect_ratio(
    size: tuple[int, int], fitted: tuple[int, int]
) -> None:
    assert fit_size(size, 64, OPTIONS) == fitted
    check_size(*fitted, OPTIONS)


@pytest.mark.parametrize("native_px", [96, 512, 1024, 1328])
def test_square_image_is_edited_at_exactly_the_models_own_size(native_px: int) -> None:
    options = DiffusionOptions(size_multiple_px=8)

    for side_px in (1, 7, 96, 1000, 1023, 4472):
        assert fit_size((side_px, side_px), native_px, options) == (native_px, native_px)


@pytest.mark.parametrize("options", [OPTIONS, DiffusionOptions(size_multiple_px=16)])
@pytest.mark.parametrize("native_px", [64, 512, 1024])
@pytest.mark.parametrize("width", [1, 13, 96, 777, 4472, 20_000_000])
@pytest.mark.parametrize("height", [1, 64, 1000, 4471])
def test_no_input_image_makes_an_edit_larger_than_the_models_own_size(
    options: DiffusionOptions, native_px: int, width: int, height: int
) -> None:
    fitted = fit_size((width, height), native_px, options)

    check_size(*fitted, options)
    assert fitted[0] * fitted[1] <= native_px * native_px
