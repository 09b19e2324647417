import json
from typing import Any

import pytest

from api.errors import ApiError, MissingParameterError, UnknownParameterError
from api.http.parsing import read_request
from api.schema.reranking import RerankRequest, ScoringRequest

RERANK = {"model": "m", "query": "q", "documents": ["a"]}
SCORE = {"model": "m", "text_1": "a", "text_2": "b"}


def rerank(**members: Any) -> RerankRequest:
    return read_request(json.dumps({**RERANK, **members}).encode(), RerankRequest).request


def score(**members: Any) -> ScoringRequest:
    return read_request(json.dumps({**SCORE, **members}).encode(), ScoringRequest).request


def test_documents_are_texts_or_objects_with_a_text() -> None:
    assert rerank(documents=["a", {"text": "b"}]).documents == ["a", "b"]


@pytest.mark.parametrize(
    "documents",
    ["a", [], [""], [{"text": ""}], [{"title": "a"}], [{"text": "a", "id": 1}], [1], [["a"]], {}],
)
def test_other_documents_are_refused(documents: Any) -> None:
    with pytest.raises(ApiError) as caught:
        rerank(documents=documents)

    assert caught.value.param == "documents"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("query", ""),
        ("query", ["q"]),
        ("top_n", 0),
        ("top_n", -1),
        ("top_n", 1.5),
        ("return_documents", 1),
    ],
)
def test_other_values_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        rerank(**{name: value})

    assert caught.value.param == name


@pytest.mark.parametrize("name", ["query", "documents"])
def test_rerank_needs_query_and_documents(name: str) -> None:
    with pytest.raises(MissingParameterError):
        rerank(**{name: None})


def test_unknown_parameter_is_refused() -> None:
    with pytest.raises(UnknownParameterError):
        rerank(max_chunks_per_doc=1)


def test_one_text_is_a_list_of_one() -> None:
    request = score()

    assert (request.text_1, request.text_2) == (["a"], ["b"])


@pytest.mark.parametrize("name", ["text_1", "text_2"])
@pytest.mark.parametrize("value", ["", [], [""], [1], 1])
def test_other_texts_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        score(**{name: value})

    assert caught.value.param == name
