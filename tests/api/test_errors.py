import pickle

import pytest

from api import errors
from api.errors import ApiError, InvalidApiKeyError, InvalidRequestError, RateLimitError, quote
from tests.helpers.asgi import check_error


def subclasses(cls: type[ApiError]) -> list[type[ApiError]]:
    return [cls, *(each for child in cls.__subclasses__() for each in subclasses(child))]


# Not those that Ray makes of errors that cross a handle, in other tests of the same run.
ALL = [cls for cls in subclasses(ApiError) if cls.__module__ == ApiError.__module__]


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("param", [None, "messages[0].role"])
def test_error_survives_pickle(cls: type[ApiError], param: str | None) -> None:
    error = pickle.loads(pickle.dumps(cls("It is too long.", param=param)))

    assert type(error) is cls
    assert (error.message, error.param, str(error)) == ("It is too long.", param, "It is too long.")


@pytest.mark.parametrize("cls", ALL)
def test_body_has_the_format_of_openai(cls: type[ApiError]) -> None:
    body = cls("It is too long.", param="input").body()

    assert body.keys() == {"error"}
    check_error(body["error"])


def test_param_of_the_body_is_null_without_a_parameter() -> None:
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
def test_headers_say_whether_to_retry(cls: type[ApiError], headers: dict[str, str]) -> None:
    assert cls("No.").headers() == headers


def test_error_can_request_a_retry() -> None:
    class FlakyError(ApiError):
        should_retry = True

    assert FlakyError("Once more.").headers() == {"x-should-retry": "true"}


@pytest.mark.parametrize("cls", [cls for cls in ALL if 400 <= cls.status < 500])
def test_status_of_a_client_error_causes_no_retry(cls: type[ApiError]) -> None:
    """OpenAI's SDKs retry 409 and 429; the headers of 429 say when."""
    assert issubclass(cls, InvalidRequestError) != issubclass(cls, RateLimitError)
    assert (cls.type == "invalid_request_error") == issubclass(cls, InvalidRequestError)
    assert cls.status != 409
    assert (cls.status == 429) == issubclass(cls, RateLimitError)


@pytest.mark.parametrize(("wait_ms", "wait_s"), [(1, "1"), (1000, "1"), (1001, "2")])
def test_rate_limit_error_says_when_to_retry(wait_ms: int, wait_s: str) -> None:
    """In seconds rounded up, so that no retry is too early; and also after a pickle."""
    error = RateLimitError("Too many requests.")
    error.retry_after_ms = wait_ms
    error.limit_headers = {"x-ratelimit-limit-requests": "9"}

    headers = pickle.loads(pickle.dumps(error)).headers()

    assert headers == {
        "x-ratelimit-limit-requests": "9",
        "retry-after": wait_s,
        "retry-after-ms": str(wait_ms),
    }


def to_lines(
    cls: type[ApiError], parent: type[ApiError] | None, branch: str, indent: str
) -> list[str]:
    """Draw a subtree: name, status, type if it differs from the parent's, code, retry."""
    type_ = "" if parent and parent.type == cls.type else cls.type
    retry = "retry" if cls.retry_after_s else "never" if cls.should_retry is False else ""
    lines = [f"{branch + cls.__name__:<38}{cls.status} {type_:<27}{cls.code:<22}{retry}".rstrip()]
    children = [child for child in cls.__subclasses__() if child in ALL]
    for child in children:
        is_last = child is children[-1]
        lines += to_lines(
            child,
            cls,
            indent + ("└── " if is_last else "├── "),
            indent + ("    " if is_last else "│   "),
        )
    return lines


def test_tree_in_the_docstring_lists_all_errors() -> None:
    assert "\n".join(to_lines(ApiError, None, "", "")) in str(errors.__doc__)


def test_invalid_key_error_has_no_retry_header() -> None:
    assert "retry-after" not in InvalidApiKeyError("No.").headers()


@pytest.mark.parametrize(
    ("text", "quoted"), [("", ""), ("abc", "abc"), ("abcd", "abc…")], ids=["empty", "fits", "long"]
)
def test_quote_shortens_long_text_and_marks_the_cut(text: str, quoted: str) -> None:
    assert quote(text, 3) == quoted
