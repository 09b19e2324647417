"""Requests with llama-index-llms-openai-like."""

from typing import Any, Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from steps import KEY, MODEL, QUESTION, URL, WEATHER_QUESTION, Weather, run_steps

MESSAGES = [ChatMessage(role="user", content=QUESTION)]


def build_llm(**options: Any) -> OpenAILike:
    return OpenAILike(
        **{"model": MODEL, "is_chat_model": True, **options},
        api_base=URL,
        api_key=KEY,
        context_window=4096,
        max_tokens=128,
        temperature=0,
        max_retries=0,
    )


def get_time(city: Literal["Paris", "Rome"]) -> str:
    """Look up the time in a city."""
    return f"noon in {city}"


TOOL = FunctionTool.from_defaults(get_time)


def complete() -> Any:
    return build_llm(is_chat_model=False).complete("The capital of France is").text


def streamed_complete() -> Any:
    chunks = list(build_llm(is_chat_model=False).stream_complete("The capital of France is"))
    return {"text": chunks[-1].text, "joined": "".join(chunk.delta for chunk in chunks)}


def complete_by_chat() -> Any:
    return build_llm().complete(QUESTION).text


def chat() -> Any:
    return build_llm().chat(MESSAGES).message.content


def streamed_chat() -> Any:
    chunks = list(build_llm().stream_chat(MESSAGES))
    joined = "".join(chunk.delta or "" for chunk in chunks)
    return {"text": chunks[-1].message.content, "joined": joined}


def structured_by_schema() -> Any:
    llm = build_llm(is_function_calling_model=True, should_use_structured_outputs=True)
    return llm.structured_predict(Weather, PromptTemplate(WEATHER_QUESTION)).model_dump()


def structured_by_tool() -> Any:
    llm = build_llm(is_function_calling_model=True)
    return llm.structured_predict(Weather, PromptTemplate(WEATHER_QUESTION)).model_dump()


def required_tool() -> Any:
    llm = build_llm(is_function_calling_model=True)
    answer = llm.chat_with_tools([TOOL], WEATHER_QUESTION, tool_required=True)
    return to_calls(llm, answer)


def named_tool() -> Any:
    llm = build_llm(is_function_calling_model=True)
    answer = llm.chat_with_tools([TOOL], WEATHER_QUESTION, tool_choice="get_time")
    return to_calls(llm, answer)


def streamed_tool() -> Any:
    llm = build_llm(is_function_calling_model=True)
    chunks = list(llm.stream_chat_with_tools([TOOL], WEATHER_QUESTION, tool_required=True))
    return to_calls(llm, chunks[-1])


def called_tool() -> Any:
    llm = build_llm(is_function_calling_model=True)
    return llm.predict_and_call([TOOL], WEATHER_QUESTION, tool_required=True).response


def to_calls(llm: OpenAILike, answer: Any) -> Any:
    calls = llm.get_tool_calls_from_response(answer)
    return [{"name": call.tool_name, "args": call.tool_kwargs} for call in calls]


def unknown_model() -> Any:
    return build_llm(model="gpt-9").chat(MESSAGES).message.content


if __name__ == "__main__":
    run_steps(
        complete,
        streamed_complete,
        complete_by_chat,
        chat,
        streamed_chat,
        structured_by_schema,
        structured_by_tool,
        required_tool,
        named_tool,
        streamed_tool,
        called_tool,
        unknown_model,
    )
