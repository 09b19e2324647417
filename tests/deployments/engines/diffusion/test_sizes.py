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
        ((400, 400), (80, 80)),
        ((1000, 10), (128, 32)),
        ((8, 8), (32, 32)),
    ],
)
def test_fitted_size_is_valid_and_near_the_images(
    size: tuple[int, int], fitted: tuple[int, int]
) -> None:
    assert fit_size(size, OPTIONS) == fitted
    check_size(*fitted, OPTIONS)
