"""The most expensive bodies are accepted, or refused with the parameter that is at fault."""

import asyncio

from api.settings import Policy
from scripts.benchmark.bodies.bodies import Body, all_bodies
from scripts.benchmark.bodies.main import build_app, measure

ACCEPTED = 503
"""The backends of the benchmark answer so."""


def test_bodies_are_answered_as_the_table_says() -> None:
    app = build_app(Policy())
    for body in all_bodies():
        figures = asyncio.run(measure(app, body, at_once=1))

        expected = ACCEPTED if body.status == 200 else body.status
        assert figures.status == expected, (body.path, body.name)


def test_names_are_unique() -> None:
    names = [(body.path, body.name) for body in all_bodies()]

    assert len(set(names)) == len(names)


def test_several_at_once_leave_turns_to_others() -> None:
    body = Body("/v1/completions", "small", b'{"model": "llm", "prompt": "a"}')

    assert asyncio.run(measure(build_app(Policy()), body, at_once=5)).status == ACCEPTED
