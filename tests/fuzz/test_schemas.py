"""Bodies by the schema of every endpoint: no 5xx, errors in OpenAI's form, nothing left behind."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import strategies as st

from api.admin.key_schema import KeyChanges, KeyFields, Rotation
from api.schema.chat import ChatRequest
from api.schema.completions import CompletionRequest
from api.schema.embeddings import EmbeddingsRequest
from api.schema.images import ImagesRequest
from api.schema.reranking import RerankRequest, ScoringRequest
from api.settings import Policy
from tests.fuzz.application import BEARER, JSON, Application
from tests.fuzz.schemas import TEXTS, anything, bodies_of
from tests.helpers.fakes import ENCODER, LLM, PAINTER
from tests.helpers.fuzzing import Fuzzer

ENDPOINTS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "/v1/chat/completions": (
        ChatRequest,
        {"model": LLM, "messages": [{"role": "user", "content": "Hi"}]},
    ),
    "/v1/completions": (CompletionRequest, {"model": LLM, "prompt": "Hi"}),
    "/v1/embeddings": (EmbeddingsRequest, {"model": ENCODER, "input": "Hi"}),
    "/v1/rerank": (RerankRequest, {"model": ENCODER, "query": "a", "documents": ["b"]}),
    "/v1/score": (ScoringRequest, {"model": ENCODER, "text_1": "a", "text_2": ["b"]}),
    "/v1/images/generations": (ImagesRequest, {"model": PAINTER, "prompt": "a dot"}),
    "/v1/keys": (KeyFields, {"name": "new"}),
    "/v1/keys/key00000": (KeyChanges, {}),
    "/v1/keys/key00000/rotate": (Rotation, {}),
}
PATHS = (
    *ENDPOINTS,
    "/health",
    "/ready",
    "/ready/llm",
    "/v1/models",
    f"/v1/models/{LLM}",
    "/v1/images/edits",
    "/v1/images/files/a.png",
    "/v1/usage",
)


@pytest.fixture
def application() -> Iterator[Application]:
    application = Application()
    application.send_json("/v1/keys", {"name": "first"})
    yield application
    application.close()


@pytest.mark.parametrize("path", ENDPOINTS)
def test_body_of_a_schema_gets_an_answer_or_an_error(
    path: str, application: Application, fuzzer: Fuzzer
) -> None:
    model, valid = ENDPOINTS[path]
    fuzzer.run(bodies_of(model, valid), lambda body: application.send_json(path, body), count=250)


@pytest.mark.parametrize("path", list(ENDPOINTS)[:6])
def test_body_of_a_schema_gets_an_answer_or_an_error_of_a_lenient_service(
    path: str, fuzzer: Fuzzer
) -> None:
    model, valid = ENDPOINTS[path]
    application = Application(Policy(parameters="lenient"))
    fuzzer.run(bodies_of(model, valid), lambda body: application.send_json(path, body), count=80)
    application.close()

    assert application.statuses[200] > 9


@pytest.mark.parametrize("path", ENDPOINTS)
def test_damaged_json_gets_an_answer_or_an_error(
    path: str, application: Application, fuzzer: Fuzzer
) -> None:
    valid = repr(ENDPOINTS[path][1]).replace("'", '"').encode()
    damage = st.tuples(
        st.integers(0, len(valid)), st.integers(0, len(valid)), st.binary(max_size=8)
    ).map(lambda cut: valid[: cut[0]] + cut[2] + valid[cut[1] :])
    fuzzer.run(damage, lambda body: application.send("POST", path, body), count=60)


TOKENS = st.text("abcdefghijklmnopqrstuvwxyzABC019-_", max_size=12)
HEADER_VALUES = (
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=20)
    | st.integers().map(str)
    | st.sampled_from(["0", "-1", "nan", "inf", "1e309", "application/json; charset=x", "gzip"])
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "accept",
            "authorization",
            "content-encoding",
            "content-length",
            "content-type",
            "openai-organization",
            "origin",
            "transfer-encoding",
            "x-api-key",
            "x-request-id",
            "x-request-timeout",
            "x-stainless-read-timeout",
            "x-stainless-timeout",
        ]
    )
    | TOKENS.filter(bool),
    HEADER_VALUES,
    max_size=5,
)
QUERIES = st.dictionaries(
    st.sampled_from(["from", "to", "group_by", "key", "tenant", "model"]) | TOKENS,
    TOKENS | HEADER_VALUES,
    max_size=4,
)
PLACES = st.sampled_from(PATHS) | st.lists(TOKENS | st.just(".."), max_size=4).map("/".join).map(
    "/{}".format
)


def to_url(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def test_any_method_path_query_and_headers_get_an_answer_or_an_error(
    application: Application, fuzzer: Fuzzer
) -> None:
    requests = st.tuples(
        st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "TRACE", "FOO"]),
        st.builds(to_url, PLACES, QUERIES),
        st.sampled_from([b"", b"{}", b"[", b"\xff"]) | st.binary(max_size=9),
        st.builds(
            lambda base, more: {**base, **more}, st.sampled_from([JSON, BEARER, {}]), HEADERS
        ),
    )
    fuzzer.run(requests, lambda each: application.send(*each), count=700)


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/keys", "/v1/keys/key00000", "/v1/models"])
def test_any_query_gets_an_answer_or_an_error(
    path: str, application: Application, fuzzer: Fuzzer
) -> None:
    fuzzer.run(
        QUERIES, lambda query: application.send("GET", to_url(path, query), b"", BEARER), count=80
    )


@pytest.mark.parametrize("path", ENDPOINTS)
def test_any_json_gets_an_error(path: str, application: Application, fuzzer: Fuzzer) -> None:
    fuzzer.run(anything(TEXTS), lambda body: application.send_json(path, body), count=60)
