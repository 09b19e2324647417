import json

import pytest

from api.ports.stream import Usage
from api.text.json_parts import to_ascii_json, to_usage


def test_total_of_usage_is_the_sum() -> None:
    assert to_usage(Usage(3, 4)) == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


@pytest.mark.parametrize("text", ["", "a", "\ud800", "é\n\u2028😀\0"], ids=ascii)
def test_ascii_json_is_valid_json_in_ascii(text: str) -> None:
    encoded = to_ascii_json(text)

    assert encoded.isascii()
    assert json.loads(encoded) == text
