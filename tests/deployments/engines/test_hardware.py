import pytest

from deployments.engines.hardware import pick_batch_tokens


@pytest.mark.parametrize(
    ("tokens", "device", "least", "picked"),
    [
        (None, "cpu", 512, 2048),
        (None, "cuda", 512, 16384),
        (None, "cuda:1", 512, 16384),
        (None, "cpu", 8192, 8192),
        (4096, "cpu", 512, 4096),
        (256, "cpu", 512, 512),
    ],
)
def test_tokens_of_a_pass(tokens: int | None, device: str, least: int, picked: int) -> None:
    assert pick_batch_tokens(tokens, device, least) == picked
