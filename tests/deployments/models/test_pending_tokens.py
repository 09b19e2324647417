import pytest

from api.ports.stream import Usage
from api.ports.text import Generation, Sampling
from deployments.engines.fakes import FakeLlmEngine
from deployments.engines.protocol import RequestProgress
from deployments.models.pending_tokens import PendingTokens


def generation(prompts: int = 1, **sampling: int) -> Generation:
    return Generation("r", ("a b c",) * prompts, Sampling(**sampling))


def progress_of(prompt_tokens: int, completion_tokens: int = 0) -> RequestProgress:
    progress = RequestProgress()
    progress.usage = Usage(prompt_tokens, completion_tokens)
    return progress


@pytest.mark.parametrize(
    ("request_", "prompt_tokens", "expected"),
    [
        (generation(), 0, 256),
        (generation(), 1000, 1256),
        (generation(max_tokens=10), 1000, 1010),
        (generation(max_tokens=100_000), 1000, 1256),
        (generation(default_max_tokens=10), 1000, 1010),
        (generation(max_tokens=10, n=3), 1000, 1030),
        (generation(2, max_tokens=10, n=3), 1000, 1060),
    ],
)
def test_request_is_its_prompt_and_the_answers_that_it_will_get(
    request_: Generation, prompt_tokens: int, expected: int
) -> None:
    tokens = PendingTokens()

    with tokens.counting(request_, progress_of(prompt_tokens)):
        during = tokens.total

    assert (during, tokens.total) == (expected, 0)


def test_answers_become_as_long_as_the_latest_ones() -> None:
    tokens = PendingTokens()
    for _ in range(200):
        with tokens.counting(generation(n=2), progress_of(5, 2 * 40)):
            pass

    with tokens.counting(generation(), progress_of(1000)):
        assert tokens.total == 1040


def test_failed_request_is_no_longer_counted_and_teaches_nothing() -> None:
    tokens = PendingTokens()

    with pytest.raises(ZeroDivisionError), tokens.counting(generation(), progress_of(5, 100_000)):
        raise ZeroDivisionError

    assert tokens.total == 0
    with tokens.counting(generation(), progress_of(0)):
        assert tokens.total == 256


class Queued(RequestProgress):
    """A request that looks at the count when it waits for its turn."""

    def __init__(self, tokens: PendingTokens) -> None:
        super().__init__()
        self.seen = 0
        self._tokens = tokens

    async def begin(self, tokens: int, size: int = 1) -> None:
        self.seen = self._tokens.total


async def test_prompt_counts_while_its_request_waits() -> None:
    tokens = PendingTokens()
    progress, request_ = Queued(tokens), generation(max_tokens=2)

    with tokens.counting(request_, progress):
        await FakeLlmEngine({"tokens_per_s": 10_000}).generate(request_, None, None, progress)

    assert progress.seen == 3 + 2
