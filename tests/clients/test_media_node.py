"""Images and embeddings through the official SDK for Node: all forms, and each error of theirs."""

from collections.abc import Callable

import pytest

from tests.clients.tours import Tour

pytestmark = pytest.mark.e2e

HEADS = {"png": "\x89PNG\r\n\x1a\n", "webp": "RIFF", "jpeg": "\xff\xd8\xff"}
DRAWING = pytest.mark.parametrize("call", ["generate", "edit"])
EACH = pytest.mark.parametrize("call", ["generate", "edit", "embed"])


@pytest.fixture(scope="module")
def tour(node_tour: Callable[[str], Tour]) -> Tour:
    return node_tour("openai_media.mjs")


@DRAWING
@pytest.mark.parametrize(
    ("step", "count", "format"),
    [("plain", 1, "png"), ("two", 2, "png"), ("webp", 1, "webp"), ("jpeg", 1, "jpeg")],
)
def test_pictures_are_as_asked_for(tour: Tour, call: str, step: str, count: int, format: str):
    result = tour.result(f"{call}_{step}")

    assert [head[: len(HEADS[format])] for head in result["heads"]] == [HEADS[format]] * count
    assert result["urls"] == [None] * count
    assert (result["size"], result["output_format"]) == ("96x96", format)


def test_a_picture_has_the_size_asked_for(tour: Tour):
    assert tour.result("generate_sized")["size"] == "64x48"


@DRAWING
def test_a_stream_shows_previews_and_completes_last(tour: Tour, call: str):
    result = tour.result(f"{call}_stream")
    kind = {"generate": "image_generation", "edit": "image_edit"}[call]

    assert result["types"] == [*[f"{kind}.partial_image"] * 2, f"{kind}.completed"]
    assert result["indexes"] == [0, 1]
    assert result["last"] == tour.result(f"{call}_whole")


@pytest.mark.parametrize("step", ["edit_masked", "edit_listed"])
def test_a_picture_to_edit_is_taken_with_a_mask_and_in_a_list(tour: Tour, step: str):
    assert tour.result(step)["heads"][0].startswith(HEADS["png"])


@pytest.mark.parametrize(
    ("form", "count", "tokens"), [("text", 1, 4), ("texts", 2, 7), ("ids", 1, 4), ("lists", 3, 11)]
)
def test_embeddings_are_the_same_numbers_in_every_encoding(
    tour: Tour, form: str, count: int, tokens: int
):
    result = tour.result(f"embed_{form}")

    assert result["lengths"] == [384] * count
    assert result["indexes"] == list(range(count))
    assert result["tokens"] == tokens
    assert result["byDefault"] == result["floats"] == result["coded"]


@EACH
@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ("unknown_parameter", ("BadRequestError", "unknown_parameter", "colour")),
        ("other_kind", ("BadRequestError", "wrong_model_kind", "model")),
        ("unknown_model", ("NotFoundError", "model_not_found", "model")),
        ("wrong_key", ("AuthenticationError", "invalid_api_key", None)),
        ("chat_key", ("PermissionDeniedError", "insufficient_permissions", None)),
        ("small_key", ("RateLimitError", "rate_limit_exceeded", None)),
    ],
)
def test_wrong_uses_raise_the_sdk_s_own_errors(
    tour: Tour, call: str, step: str, fault: tuple[str, str, str | None]
):
    assert tour.fault(f"{call}_{step}") == fault


@pytest.mark.parametrize(
    ("step", "code", "param"),
    [
        ("generate_size", "invalid_value", "size"),
        ("edit_no_picture", "invalid_image_file", "image"),
        ("embed_dimensions", "unsupported_parameter", "dimensions"),
        ("embed_too_long", "context_length_exceeded", "input[1]"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tour: Tour, step: str, code: str, param: str):
    assert tour.fault(step) == ("BadRequestError", code, param)
