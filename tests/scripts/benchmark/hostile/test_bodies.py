import json

from scripts.benchmark.hostile.bodies import to_bodies


def test_every_body_is_one_request_that_the_size_limit_lets_in() -> None:
    bodies = [body for _, body in to_bodies("m").values()]

    assert all(len(body) < 9_000_000 for body in bodies)
    assert [json.loads(body)["model"] for body in bodies] == ["m"] * len(bodies)
