"""Requests with langchain-openai."""

from typing import Any, Literal

from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import SecretStr
from steps import KEY, MODEL, QUESTION, URL, WEATHER_QUESTION, Weather, run_steps


def build_chat(**options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        **{"model": MODEL, "max_completion_tokens": 128, **options},
        base_url=URL,
        api_key=SecretStr(KEY),
        temperature=0,
        max_retries=0,
    )


@tool
def get_time(city: Literal["Paris", "Rome"]) -> str:
    """Look up the time in a city."""
    return f"noon in {city}"


def chat() -> Any:
    answer = build_chat().invoke(QUESTION)
    return {"text": answer.content, "usage": answer.usage_metadata}


def stream() -> Any:
    # By default langchain-openai requests usage in streams only from OpenAI's own URL.
    chunks = list(build_chat(stream_usage=True).stream(QUESTION))
    whole = sum(chunks[1:], chunks[0])
    return {"text": whole.content, "usage": whole.usage_metadata, "chunks": len(chunks)}


def batch() -> Any:
    return [answer.content for answer in build_chat().batch([QUESTION, QUESTION])]


def logprobs() -> Any:
    answer = build_chat(logprobs=True, top_logprobs=2, max_completion_tokens=3).invoke(QUESTION)
    return answer.response_metadata["logprobs"]["content"]


def structured_by_schema() -> Any:
    model = build_chat().with_structured_output(Weather, method="json_schema")
    return model.invoke(WEATHER_QUESTION).model_dump()


def structured_by_strict_schema() -> Any:
    model = build_chat().with_structured_output(Weather, method="json_schema", strict=True)
    return model.invoke(WEATHER_QUESTION).model_dump()


def structured_by_tool() -> Any:
    model = build_chat().with_structured_output(Weather, method="function_calling")
    return model.invoke(WEATHER_QUESTION).model_dump()


def structured_in_a_stream() -> Any:
    model = build_chat().with_structured_output(Weather, method="json_schema")
    return list(model.stream(WEATHER_QUESTION))[-1].model_dump()


def named_tool() -> Any:
    model = build_chat().bind_tools([get_time], tool_choice="get_time")
    return model.invoke(WEATHER_QUESTION).tool_calls


def any_tool() -> Any:
    return (
        build_chat().bind_tools([get_time], tool_choice="any").invoke(WEATHER_QUESTION).tool_calls
    )


def strict_tool() -> Any:
    model = build_chat().bind_tools(
        [get_time], tool_choice="required", strict=True, parallel_tool_calls=False
    )
    return model.invoke(WEATHER_QUESTION).tool_calls


def streamed_tool() -> Any:
    model = build_chat().bind_tools([get_time], tool_choice="get_time")
    chunks = list(model.stream(WEATHER_QUESTION))
    return sum(chunks[1:], chunks[0]).tool_calls


def tool_result() -> Any:
    asked = build_chat().bind_tools([get_time], tool_choice="get_time").invoke(WEATHER_QUESTION)
    result = get_time.invoke(asked.tool_calls[0])
    assert isinstance(result, ToolMessage)
    messages = [{"role": "user", "content": WEATHER_QUESTION}, asked, result]
    return build_chat().bind_tools([get_time], tool_choice="none").invoke(messages).content


def embeddings() -> Any:
    model = OpenAIEmbeddings(
        model="all-minilm-l6-v2",
        base_url=URL,
        api_key=SecretStr(KEY),
        max_retries=0,
        # By default the client sends ids of OpenAI's tokenizer; this model's vocabulary differs.
        check_embedding_ctx_length=False,
    )
    return [*model.embed_documents(["one", "two"]), model.embed_query("one")]


def unknown_model() -> Any:
    return build_chat(model="gpt-9").invoke(QUESTION).content


if __name__ == "__main__":
    run_steps(
        chat,
        stream,
        batch,
        logprobs,
        structured_by_schema,
        structured_by_strict_schema,
        structured_by_tool,
        structured_in_a_stream,
        named_tool,
        any_tool,
        strict_tool,
        streamed_tool,
        tool_result,
        embeddings,
        unknown_model,
    )
