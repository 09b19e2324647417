import pytest
from starlette.datastructures import Headers

from api.errors import InvalidRequestError
from api.http.client_timeout import find_timeout_s


def timeout_s(headers: dict[str, str], *, is_streamed: bool = False) -> float:
    return find_timeout_s(Headers(headers), 600.0, is_streamed=is_streamed)


@pytest.mark.parametrize("header", ["x-stainless-read-timeout", "x-stainless-timeout"])
def test_whole_answer_has_the_time_of_the_sdk_and_a_second_more(header: str) -> None:
    assert timeout_s({header: "2.5"}) == 3.5


def test_time_of_the_sdk_does_not_bound_a_stream() -> None:
    assert timeout_s({"x-stainless-read-timeout": "2.5"}, is_streamed=True) == 600


@pytest.mark.parametrize("is_streamed", [False, True])
def test_own_header_bounds_whole_answers_and_streams(is_streamed: bool) -> None:
    assert timeout_s({"x-request-timeout": "7"}, is_streamed=is_streamed) == 7


@pytest.mark.parametrize("header", ["x-request-timeout", "x-stainless-read-timeout"])
def test_client_cannot_raise_the_limit_of_the_service(header: str) -> None:
    assert timeout_s({header: "6000"}) == 600


def test_shortest_time_counts() -> None:
    assert timeout_s({"x-request-timeout": "7", "x-stainless-read-timeout": "3"}) == 4


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf", "1e999"])
def test_own_header_must_be_a_number_of_seconds(text: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        timeout_s({"x-request-timeout": text})

    assert refused.value.param == "x-request-timeout"


@pytest.mark.parametrize("text", ["", "NOT_GIVEN", "None", "0", "-1", "nan", "inf"])
def test_time_of_an_sdk_that_is_no_number_is_ignored(text: str) -> None:
    assert timeout_s({"x-stainless-read-timeout": text}) == 600
