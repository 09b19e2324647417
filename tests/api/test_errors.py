import pickle
import re

import pytest

from api import errors
from api.errors import ApiError, InvalidApiKeyError, InvalidRequestError, RateLimitError, quote
from tests.helpers.asgi import check_error


def subclasses(cls: type[ApiError]) -> list[type[ApiError]]:
    return [cls, *(each for child in cls.__subclasses__() for each in subclasses(child))]


# Ray makes subclasses of its own when one crosses a handle, as in other tests of the same run.
ALL = [cls for cls in subclasses(ApiError) if cls.__module__ == ApiError.__module__]


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("param", [None, "messages[0].role"])
def test_error_survives_pickle(cls: type[ApiError], param: str | None) -> None:
    error = pickle.loads(pickle.dumps(cls("It is too long.", param=param)))

    assert type(error) is cls
    assert (error.message, error.param, str(error)) == ("It is too long.", param, "It is too long.")


@pytest.mark.parametrize("cls", ALL)
def test_body_has_the_shape_of_openai(cls: type[ApiError]) -> None:
    body = cls("It is too long.", param="input").body()

    assert body.keys() == {"error"}
    check_error(body["error"])


def test_param_is_null_in_the_body_when_there_is_none() -> None:
    assert InvalidRequestError("No.").body()["error"]["param"] is None


@pytest.mark.parametrize(
    ("cls", "headers"),
    [
        (errors.InvalidRequestError, {}),
        (errors.EngineError, {}),
        (errors.OverloadedError, {"retry-after": "1"}),
        (errors.ModelStartingError, {"retry-after": "5"}),
        (errors.ReplicaLostError, {"retry-after": "1"}),
        (errors.KeysUnknownError, {"retry-after": "2"}),
        (errors.RateLimitError, {"x-should-retry": "false"}),
        (errors.InsufficientQuotaError, {"x-should-retry": "false"}),
        (errors.ModelFailedError, {"x-should-retry": "false"}),
        (errors.DeadlineExceededError, {"x-should-retry": "false"}),
        (errors.InvalidApiKeyError, {"www-authenticate": "Bearer"}),
    ],
)
def test_headers_tell_clients_whether_to_retry(
    cls: type[ApiError], headers: dict[str, str]
) -> None:
    assert cls("No.").headers() == headers


def test_an_error_can_ask_for_a_retry() -> None:
    class FlakyError(ApiError):
        should_retry = True

    assert FlakyError("Once more.").headers() == {"x-should-retry": "true"}


@pytest.mark.parametrize("cls", [cls for cls in ALL if 400 <= cls.status < 500])
def test_errors_of_the_client_are_never_retried_by_its_status(cls: type[ApiError]) -> None:
    """But for a key at its limits, whose headers say when."""
    assert issubclass(cls, InvalidRequestError) != issubclass(cls, RateLimitError)
    assert (cls.type == "invalid_request_error") == issubclass(cls, InvalidRequestError)
    assert cls.status != 409
    assert (cls.status == 429) == issubclass(cls, RateLimitError)


@pytest.mark.parametrize(("wait_ms", "wait_s"), [(1, "1"), (1000, "1"), (1001, "2")])
def test_a_key_at_its_limit_is_told_when_to_come_back(wait_ms: int, wait_s: str) -> None:
    """In seconds rounded up, so that nobody comes too early; and also after a pickle."""
    error = RateLimitError("Too many requests.")
    error.retry_after_ms = wait_ms
    error.limit_headers = {"x-ratelimit-limit-requests": "9"}

    headers = pickle.loads(pickle.dumps(error)).headers()

    assert headers == {
        "x-ratelimit-limit-requests": "9",
        "retry-after": wait_s,
        "retry-after-ms": str(wait_ms),
    }


def test_drawing_in_the_docstring_is_the_tree() -> None:
    line = re.compile(
        r"^[│├└─ ]*(\w+) +([45]\d\d)(?: (?:server|service|invalid|rate_limit_e)\w*)?(?: +(\w+))?"
    )
    drawn = {
        match[1]: (int(match[2]), match[3])
        for match in map(line.match, (errors.__doc__ or "").splitlines())
        if match
    }

    codes = {cls.__name__: (cls.status, cls.code) for cls in ALL}
    assert drawn == {
        name: (status, drawn[name][1] and code) for name, (status, code) in codes.items()
    }


def test_key_errors_do_not_invite_a_retry() -> None:
    assert "retry-after" not in InvalidApiKeyError("No.").headers()


@pytest.mark.parametrize(
    ("text", "quoted"), [("", ""), ("abc", "abc"), ("abcd", "abc…")], ids=["empty", "fits", "long"]
)
def test_quote_shortens_long_text_and_marks_the_cut(text: str, quoted: str) -> None:
    assert quote(text, 3) == quoted
