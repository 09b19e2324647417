"""Images and embeddings through the official SDK for Node: every input form, every error."""

from collections.abc import Callable

import pytest

from tests.helpers.client_programs import ClientRun

pytestmark = pytest.mark.e2e

HEADS = {"png": "\x89PNG\r\n\x1a\n", "webp": "RIFF", "jpeg": "\xff\xd8\xff"}
IMAGE_CALLS = pytest.mark.parametrize("call", ["generate", "edit"])
ALL_CALLS = pytest.mark.parametrize("call", ["generate", "edit", "embed"])


@pytest.fixture(scope="module")
def run(run_node: Callable[[str], ClientRun]) -> ClientRun:
    return run_node("openai_media.mjs")


@IMAGE_CALLS
@pytest.mark.parametrize(
    ("step", "count", "format"),
    [("plain", 1, "png"), ("two", 2, "png"), ("webp", 1, "webp"), ("jpeg", 1, "jpeg")],
)
def test_images_have_the_requested_count_and_format(
    run: ClientRun, call: str, step: str, count: int, format: str
):
    result = run.result(f"{call}_{step}")

    assert [head[: len(HEADS[format])] for head in result["heads"]] == [HEADS[format]] * count
    assert result["urls"] == [None] * count
    assert (result["size"], result["output_format"]) == ("96x96", format)


def test_image_has_the_requested_size(run: ClientRun):
    assert run.result("generate_sized")["size"] == "64x48"


@IMAGE_CALLS
def test_stream_sends_previews_and_ends_with_the_completed_image(run: ClientRun, call: str):
    result = run.result(f"{call}_stream")
    kind = {"generate": "image_generation", "edit": "image_edit"}[call]

    assert result["types"] == [*[f"{kind}.partial_image"] * 2, f"{kind}.completed"]
    assert result["indexes"] == [0, 1]
    assert result["last"] == run.result(f"{call}_whole")


@pytest.mark.parametrize("step", ["edit_masked", "edit_listed"])
def test_edit_accepts_an_image_with_a_mask_and_in_a_list(run: ClientRun, step: str):
    assert run.result(step)["heads"][0].startswith(HEADS["png"])


@pytest.mark.parametrize(
    ("form", "count", "tokens"), [("text", 1, 4), ("texts", 2, 7), ("ids", 1, 4), ("lists", 3, 11)]
)
def test_embeddings_are_equal_in_every_encoding(run: ClientRun, form: str, count: int, tokens: int):
    result = run.result(f"embed_{form}")

    assert result["lengths"] == [384] * count
    assert result["indexes"] == list(range(count))
    assert result["tokens"] == tokens
    assert result["byDefault"] == result["floats"] == result["coded"]


@ALL_CALLS
@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("unknown_parameter", ("BadRequestError", "unknown_parameter", "colour")),
        ("other_kind", ("BadRequestError", "wrong_model_kind", "model")),
        ("unknown_model", ("NotFoundError", "model_not_found", "model")),
        ("wrong_key", ("AuthenticationError", "invalid_api_key", None)),
        ("chat_key", ("PermissionDeniedError", "insufficient_permissions", None)),
        ("small_key", ("RateLimitError", "rate_limit_exceeded", None)),
    ],
)
def test_wrong_requests_raise_the_matching_sdk_error(
    run: ClientRun, call: str, step: str, error: tuple[str, str, str | None]
):
    assert run.error_details(f"{call}_{step}") == error


@pytest.mark.parametrize(
    ("step", "code", "param"),
    [
        ("generate_size", "invalid_value", "size"),
        ("edit_invalid_image", "invalid_image_file", "image"),
        ("embed_dimensions", "unsupported_parameter", "dimensions"),
        ("embed_too_long", "context_length_exceeded", "input[1]"),
    ],
)
def test_invalid_parameter_is_rejected_by_name(run: ClientRun, step: str, code: str, param: str):
    assert run.error_details(step) == ("BadRequestError", code, param)
