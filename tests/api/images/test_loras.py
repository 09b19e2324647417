import json
from typing import Any

import pytest

from api.ports.images import Lora
from tests.helpers.asgi import Response, request
from tests.helpers.edit_forms import edit
from tests.helpers.fakes import PAINTER, FakePainter, build_app

URL = "/v1/images/generations"
TWO = [{"name": "ink", "scale": 0.5}, {"name": "pixel-art"}]
PARSED = (Lora("ink", 0.5), Lora("pixel-art", 1.0))
INVALID: list[tuple[Any, str, str]] = [
    ("ink", "invalid_value", "loras"),
    ({"name": "ink"}, "invalid_value", "loras"),
    (["ink"], "invalid_value", "loras[0]"),
    ([{"scale": 1}], "missing_required_parameter", "loras[0].name"),
    ([{"name": ""}], "invalid_value", "loras[0].name"),
    ([{"name": "i" * 129}], "invalid_value", "loras[0].name"),
    ([{"name": "ink", "path": "/etc"}], "unknown_parameter", "loras[0].path"),
    ([{"name": "ink", "scale": "1"}], "invalid_value", "loras[0].scale"),
    ([{"name": "ink"}, {"name": "oil", "scale": 4.1}], "invalid_value", "loras[1].scale"),
    ([{"name": "ink", "scale": -(10**400)}], "invalid_value", "loras[0].scale"),
    ([{"name": "ink"}, {"name": "ink", "scale": 0.5}], "invalid_value", "loras"),
    ([{"name": str(number)} for number in range(5)], "invalid_value", "loras"),
]


async def ask(painter: FakePainter | None = None, **members: Any) -> Response:
    body = {"model": PAINTER, "prompt": "a dot", **members}
    return await request(build_app(painter=painter), "POST", URL, json_body=body)


async def test_loras_reach_the_model() -> None:
    painter = FakePainter()

    await ask(painter, loras=TWO)
    await ask(painter, loras=[])
    await edit(painter, loras=json.dumps(TWO))

    assert [received.loras for received in painter.requests] == [PARSED, (), PARSED]


@pytest.mark.parametrize(("loras", "code", "param"), INVALID)
async def test_invalid_lora_is_named(loras: Any, code: str, param: str) -> None:
    assert (await ask(loras=loras)).error() == (400, code, param)


@pytest.mark.parametrize(("loras", "code", "param"), INVALID)
async def test_invalid_lora_of_a_form_is_named(loras: Any, code: str, param: str) -> None:
    assert (await edit(loras=json.dumps(loras))).error() == (400, code, param)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ink",
        '[{"name": "ink"}',
        '[{"name": "ink", "scale": NaN}]',
        '[{"name": "ink", "name": "oil"}]',
        "[" * 4000,
        '[{"name": "ink"}]' + " " * 5000,
    ],
)
async def test_form_whose_loras_are_not_json_is_refused(text: str) -> None:
    assert (await edit(loras=text)).error() == (400, "invalid_value", "loras")
