import pytest

from api.errors import UnsupportedParameterError
from deployments.engines.embedding.prompts import Prompts

NOTHING = {"query": "", "document": ""}
"""What sentence-transformers says of a model without prompts."""
QWEN = {"query": "Instruct: find\nQuery:", "document": ""}


def test_request_that_says_nothing_gets_the_default() -> None:
    assert Prompts({}, QWEN, None).get(None) == ""
    assert Prompts({}, QWEN, "query").get(None) == QWEN["query"]
    assert Prompts({"title": "T: "}, NOTHING, "title").get(None) == "T: "


def test_default_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        Prompts({}, NOTHING, "title")


@pytest.mark.parametrize("name", ["query", "search_query", "retrieval.query"])
def test_query_goes_by_many_names(name: str) -> None:
    assert Prompts({"query": "q: "}, NOTHING, None).get(name) == "q: "


@pytest.mark.parametrize("name", ["passage", "document", "search_document", "retrieval.passage"])
def test_passage_goes_by_many_names(name: str) -> None:
    assert Prompts({"passage": "p: "}, NOTHING, None).get(name) == "p: "


def test_empty_prompt_is_one_where_another_is_not_empty() -> None:
    assert Prompts({}, QWEN, None).get("passage") == ""


def test_configured_prompt_goes_before_the_model_s() -> None:
    assert Prompts({"query": "q: "}, QWEN, None).get("query") == "q: "


@pytest.mark.parametrize("name", ["query", "passage", "anything"])
def test_model_without_prompts_has_no_input_types(name: str) -> None:
    prompts = Prompts({}, NOTHING, None)

    with pytest.raises(UnsupportedParameterError) as caught:
        prompts.get(name)
    assert caught.value.param == "input_type"
    assert prompts.find(name) is None
    assert prompts.names == []


def test_unknown_input_type_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UnsupportedParameterError, match="'clustering', 'query'"):
        Prompts({"query": "q", "clustering": "c"}, NOTHING, None).get("title")


def test_error_names_what_the_client_sent() -> None:
    with pytest.raises(UnsupportedParameterError, match="'task'") as failure:
        Prompts({}, NOTHING, None).get("query", "task")

    assert failure.value.param == "task"
