"""Every parameter of OpenAI's API and of vLLM's server is honoured, refused or reported."""

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from openai.types import completion_create_params, image_generate_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.embedding_create_params import EmbeddingCreateParams

from api.errors import UnsupportedParameterError
from api.http.parsing import read_request
from api.ports.stream import Extra, TextDelta, Usage
from api.ports.text import Completion
from api.registry import Llm, TextOptions
from api.schema.chat import ChatRequest
from api.schema.common import Request
from api.schema.completions import CompletionRequest
from api.schema.embeddings import EmbeddingsRequest
from api.schema.images import ImagesRequest
from api.schema.parameter_table import describe, to_lines
from api.services import Services
from api.text.chat import prepare_chat
from api.text.completions import prepare_completion
from api.text.endpoint import Prepare
from tests.helpers.fakes import META, FakeLlm

FUNCTION = {"type": "function", "function": {"name": "f"}}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {"model": "m", "prompt": "Hi"}


def fields_of_vllm(module: str, name: str) -> list[str]:
    """Read from the source, because importing vLLM takes seconds."""
    package = importlib.util.find_spec("vllm")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "entrypoints" / "openai"
    tree = ast.parse((folder / module / "protocol.py").read_text())
    (body,) = [
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name
    ]
    return [
        node.target.id
        for node in body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not node.target.id.startswith("_")
    ]


def fields_of_openai(*types: Any) -> list[str]:
    return sorted({name for kind in types for name in kind.__annotations__})


CASES = [
    *[
        (ChatRequest, name)
        for name in fields_of_openai(
            chat_params.CompletionCreateParamsBase,
            chat_params.CompletionCreateParamsStreaming,
        )
    ],
    *[(ChatRequest, name) for name in fields_of_vllm("chat_completion", "ChatCompletionRequest")],
    *[
        (CompletionRequest, name)
        for name in fields_of_openai(
            completion_create_params.CompletionCreateParamsBase,
            completion_create_params.CompletionCreateParamsStreaming,
        )
    ],
    *[(CompletionRequest, name) for name in fields_of_vllm("completion", "CompletionRequest")],
    *[(EmbeddingsRequest, name) for name in fields_of_openai(EmbeddingCreateParams)],
    *[
        (ImagesRequest, name)
        for name in fields_of_openai(
            image_generate_params.ImageGenerateParamsBase,
            image_generate_params.ImageGenerateParamsStreaming,
        )
    ],
]


@pytest.mark.parametrize(("schema", "name"), CASES)
def test_every_parameter_of_openai_and_vllm_is_accounted_for(
    schema: type[Request], name: str
) -> None:
    assert describe(schema, name) in ("honoured", "reported", "refused")


CHANGES: dict[str, Any] = {
    "allowed_token_ids": [1],
    "bad_words": ["a"],
    "best_of": 2,
    "chat_template_kwargs": {"a": True},
    "echo": True,
    "frequency_penalty": 1.0,
    "ignore_eos": True,
    "include_reasoning": False,
    "include_stop_str_in_output": True,
    "logit_bias": {"1": 1.0},
    "loglikelihood": True,
    "logprobs": True,
    "max_completion_tokens": 3,
    "max_tokens": 3,
    "messages": "Other",
    "min_p": 0.5,
    "min_tokens": 1,
    "model": "other",
    "n": 2,
    "parallel_tool_calls": False,
    "peft": "adapter",
    "presence_penalty": 1.0,
    "prompt": "Other",
    "reasoning_effort": "low",
    "repetition_penalty": 1.5,
    "response_format": {"type": "json_object"},
    "seed": 1,
    "service_tier": "auto",
    "skip_special_tokens": False,
    "stop": ["a"],
    "stop_token_ids": [1],
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "tool_choice": "required",
    "tools": [FUNCTION],
    "top_k": 5,
    "top_logprobs": 2,
    "top_p": 0.5,
}
NEEDS: dict[str, dict[str, Any]] = {
    "best_of": {"n": 2},
    "parallel_tool_calls": {"tools": [FUNCTION]},
    "tool_choice": {"tools": [FUNCTION]},
    "top_logprobs": {"logprobs": True},
}
ELSEWHERE = {"stream", "log_prompt", "user", "modalities", "store", "best_of"}
"""Other modules test the first three; the others accept one value only."""


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (schema, name)
        for schema in (ChatRequest, CompletionRequest)
        for name in schema.model_fields
        if describe(schema, name) == "honoured" and name not in ELSEWHERE
    ],
)
def test_every_honoured_parameter_changes_something(schema: type[Request], name: str) -> None:
    value: Any = 2 if (schema, name) == (CompletionRequest, "logprobs") else CHANGES[name]

    assert outcome(schema, NEEDS.get(name, {})) != outcome(
        schema, {**NEEDS.get(name, {}), name: value}
    )


def outcome(schema: type[Request], members: dict[str, Any]) -> Any:
    """Return what is sent to the model, and how its answers are rendered."""
    is_chat = schema is ChatRequest
    body = {**(CHAT if is_chat else COMPLETION), "stream": True, **members}
    request: Any = read_request(json.dumps(body).encode(), schema).request
    llm = Llm(FakeLlm(), TextOptions(template_options=frozenset("a")), request.peft)
    prepare: Prepare = prepare_chat if is_chat else prepare_completion
    prepared = prepare(request, llm, META, Services())
    renderer = prepared.renderer
    chunks = [
        *renderer.render_chunks(TextDelta(0, "a", "stop")),
        renderer.render_usage_chunk(Usage(1)),
    ]
    rendered = [
        {key: value for key, value in json.loads(chunk).items() if key != "created"}
        for chunk in chunks
    ]
    reasoning = renderer.render(Completion((TextDelta(0, "a", "stop", Extra("hm")),), Usage(1)))
    return prepared.generation, rendered, reasoning["choices"], prepared.usage_placement


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (schema, name)
        for schema in (ChatRequest, CompletionRequest, EmbeddingsRequest, ImagesRequest)
        for name in sorted(schema.refused)
    ],
)
def test_lenient_reports_what_strict_refuses(schema: type[Request], name: str) -> None:
    required = {"messages": "Hi", "prompt": "Hi", "input": "Hi", "model": "m"}
    body = {key: value for key, value in required.items() if key in schema.model_fields}
    sent = json.dumps({**body, name: 1}).encode()

    with pytest.raises(UnsupportedParameterError):
        read_request(sent, schema)
    assert read_request(sent, schema, "lenient").headers() == {"x-ignored-parameters": name}


def test_table_has_a_row_for_each_parameter_and_a_column_for_each_endpoint() -> None:
    header, rule, *rows = to_lines()
    names = [row.split("`")[1] for row in rows]

    assert header == (
        "| parameter | chat | completions | embeddings | rerank | score | images | image edits |"
    )
    assert rule == "|---" * 8 + "|"
    assert names == sorted(set(names))
    assert "| `model` " + "| honoured " * 7 + "|" in rows
    assert "| `suffix` |  | refused |  |  |  |  |  |" in rows
    assert "| `metadata` | reported |  |  |  |  |  |  |" in rows
