from typing import Any

import pytest

from api.errors import ContextLengthExceededError
from api.ports.embeddings import Truncation
from api.ports.tenancy import Key
from api.settings import Limits
from tests.helpers.asgi import Response, request
from tests.helpers.fakes import ENCODER, LLM, FakeEncoder, build_app, keys_of

RERANK, SCORE = "/v1/rerank", "/v1/score"
BODIES: dict[str, dict[str, Any]] = {
    RERANK: {"model": ENCODER, "query": "q", "documents": ["a", "b", "c"]},
    SCORE: {"model": ENCODER, "text_1": "q", "text_2": ["a", "b", "c"]},
}
BOTH = pytest.mark.parametrize("path", BODIES)
ROWS = ((0.25,), (0.75,), (-1.0,))


async def ask(path: str, encoder: FakeEncoder | None = None, **members: Any) -> Response:
    app = build_app(encoder=encoder or FakeEncoder(ROWS))
    return await request(app, "POST", path, json_body={**BODIES[path], **members})


async def test_results_are_sorted_by_descending_score() -> None:
    response = await ask(RERANK)

    request_id = response.headers["x-request-id"]
    assert response.json() == {
        "id": f"rerank-{request_id}",
        "model": ENCODER,
        "results": [
            {"index": 1, "relevance_score": 0.75},
            {"index": 0, "relevance_score": 0.25},
            {"index": 2, "relevance_score": -1.0},
        ],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


@pytest.mark.parametrize(
    ("alias", "path"), [("/rerank", RERANK), ("/v2/rerank", RERANK), ("/score", SCORE)]
)
async def test_urls_of_other_services_return_the_same(alias: str, path: str) -> None:
    """The URLs of vLLM and Cohere; Cohere's SDK uses /v2/rerank."""
    encoder = FakeEncoder(ROWS)

    response = await request(build_app(encoder=encoder), "POST", alias, json_body=BODIES[path])
    named = await request(build_app(encoder=encoder), "POST", path, json_body=BODIES[path])

    members = ("results", "data", "model", "usage")
    assert [response.json().get(name) for name in members] == [
        named.json().get(name) for name in members
    ]
    assert [each.context.endpoint for each in encoder.scored] == [path.removeprefix("/v1/")] * 2


@pytest.mark.parametrize("alias", ["/rerank", "/v2/rerank", "/score"])
async def test_urls_of_other_services_need_a_key(alias: str) -> None:
    response = await request(
        build_app(keys=keys_of(Key("k", "k", "t"))), "POST", alias, json_body={}
    )

    assert response.error() == (401, "invalid_api_key", None)


async def test_equal_scores_keep_the_order_of_the_request() -> None:
    response = await ask(RERANK, FakeEncoder([(0.5,)]))

    assert [each["index"] for each in response.json()["results"]] == [0, 1, 2]


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (3, 3), (9, 3), (None, 3)])
async def test_top_n_returns_the_best(top_n: int | None, count: int) -> None:
    response = await ask(RERANK, top_n=top_n)

    assert [each["index"] for each in response.json()["results"]] == [1, 0, 2][:count]


async def test_documents_are_returned_if_requested() -> None:
    response = await ask(RERANK, documents=["a", {"text": "b"}], return_documents=True)

    results = response.json()["results"]
    assert [each["document"] for each in results] == [{"text": "b"}, {"text": "a"}]


async def test_query_and_documents_reach_the_model() -> None:
    encoder = FakeEncoder(ROWS)

    await ask(RERANK, encoder, truncate="END")

    (received,) = encoder.scored
    assert (received.queries, received.documents) == (("q",), ("a", "b", "c"))
    assert (received.is_search, received.names) == (True, ("query", "documents"))
    assert received.truncation == Truncation(True, None, 300_000)
    assert received.context.endpoint == "rerank"


async def test_scores_have_the_order_of_the_texts() -> None:
    response = await ask(SCORE)

    answer = response.json()
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "id": f"score-{response.headers['x-request-id']}",
        "object": "list",
        "model": ENCODER,
        "data": [
            {"index": 0, "object": "score", "score": 0.25},
            {"index": 1, "object": "score", "score": 0.75},
            {"index": 2, "object": "score", "score": -1.0},
        ],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


@pytest.mark.parametrize(
    ("first", "second", "queries"),
    [("a", "b", ("a",)), ("a", ["b", "c"], ("a",)), (["a", "b"], ["c", "d"], ("a", "b"))],
)
async def test_texts_are_paired(first: Any, second: Any, queries: tuple[str, ...]) -> None:
    encoder = FakeEncoder(ROWS)

    response = await ask(SCORE, encoder, text_1=first, text_2=second)

    (received,) = encoder.scored
    assert (received.queries, received.is_search, received.names) == (
        queries,
        False,
        ("text_1", "text_2"),
    )
    assert len(response.json()["data"]) == len(received.documents)


@pytest.mark.parametrize(("first", "second"), [(["a", "b"], "c"), (["a", "b"], ["c", "d", "e"])])
async def test_texts_that_cannot_be_paired_are_refused(first: Any, second: Any) -> None:
    response = await ask(SCORE, text_1=first, text_2=second)

    assert response.error() == (400, "invalid_value", "text_1")


@pytest.mark.parametrize(
    ("path", "name"), [(RERANK, "documents"), (SCORE, "text_1"), (SCORE, "text_2")]
)
async def test_more_texts_than_the_limit_are_refused(path: str, name: str) -> None:
    app = build_app(limits=Limits(max_embedding_inputs=3))

    response = await request(
        app, "POST", path, json_body={**BODIES[path], name: ["a", "b", "c", "d"]}
    )

    assert response.error() == (400, "invalid_value", name)


@BOTH
async def test_error_of_the_model_has_its_status(path: str) -> None:
    error = ContextLengthExceededError("Input 1 is too long.", param="documents[1]")

    response = await ask(path, FakeEncoder(error=error))

    assert response.error() == (400, "context_length_exceeded", "documents[1]")


@BOTH
async def test_model_of_another_kind_returns_400(path: str) -> None:
    response = await ask(path, model=LLM)

    assert response.error() == (400, "wrong_model_kind", "model")


@BOTH
async def test_deadline_cancels_the_call(path: str) -> None:
    encoder = FakeEncoder(held=True)
    app = build_app(encoder=encoder, limits=Limits(request_timeout_s=0.01))

    response = await request(app, "POST", path, json_body=BODIES[path])

    assert response.error() == (504, "deadline_exceeded", None)
