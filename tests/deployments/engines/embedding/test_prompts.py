import pytest

from api.errors import UnsupportedParameterError
from deployments.engines.embedding.prompts import Prompts

EMPTY = {"query": "", "document": ""}
"""What sentence-transformers reports for a model without prompts."""
QWEN = {"query": "Instruct: find\nQuery:", "document": ""}


def test_request_without_an_input_type_gets_the_default() -> None:
    assert Prompts({}, QWEN, None).get(None) == ""
    assert Prompts({}, QWEN, "query").get(None) == QWEN["query"]
    assert Prompts({"title": "T: "}, EMPTY, "title").get(None) == "T: "


def test_unknown_default_is_an_error() -> None:
    with pytest.raises(KeyError):
        Prompts({}, EMPTY, "title")


@pytest.mark.parametrize("name", ["query", "search_query", "retrieval.query"])
def test_query_prompt_is_found_by_its_synonyms(name: str) -> None:
    assert Prompts({"query": "q: "}, EMPTY, None).get(name) == "q: "


@pytest.mark.parametrize("name", ["passage", "document", "search_document", "retrieval.passage"])
def test_passage_prompt_is_found_by_its_synonyms(name: str) -> None:
    assert Prompts({"passage": "p: "}, EMPTY, None).get(name) == "p: "


def test_empty_prompt_counts_if_another_is_not_empty() -> None:
    assert Prompts({}, QWEN, None).get("passage") == ""


def test_configured_prompt_overrides_the_model_s() -> None:
    assert Prompts({"query": "q: "}, QWEN, None).get("query") == "q: "


@pytest.mark.parametrize("name", ["query", "passage", "anything"])
def test_model_without_prompts_has_no_input_types(name: str) -> None:
    prompts = Prompts({}, EMPTY, None)

    with pytest.raises(UnsupportedParameterError) as caught:
        prompts.get(name)
    assert caught.value.param == "input_type"
    assert prompts.find(name) is None
    assert prompts.names == []


def test_error_of_an_unknown_input_type_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedParameterError, match="'clustering', 'query'"):
        Prompts({"query": "q", "clustering": "c"}, EMPTY, None).get("title")


def test_error_names_the_client_s_parameter() -> None:
    with pytest.raises(UnsupportedParameterError, match="'task'") as failure:
        Prompts({}, EMPTY, None).get("query", "task")

    assert failure.value.param == "task"
