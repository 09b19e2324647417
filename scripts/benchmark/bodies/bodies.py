"""Request bodies that cost the most of what each endpoint allows, and those just beyond it."""

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

MIB = 1024 * 1024
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RERANK, SCORE = "/v1/rerank", "/v1/score"
IMAGES, EDITS = "/v1/images/generations", "/v1/images/edits"
MODELS = {CHAT: "llm", COMPLETIONS: "llm", IMAGES: "painter", EDITS: "painter"}
BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Body:
    """One body, and what becomes of it."""

    path: str
    name: str
    data: bytes
    param: str | None = None
    """The parameter that a refusal names."""
    status: int = 400
    """200 if the model gets the request."""
    content_type: str = "application/json"


def all_bodies() -> Iterator[Body]:
    """Yield the bodies of all endpoints; each is built when it is its turn."""
    yield from _of_structure()
    yield from _of_chat()
    yield from _of_schemas()
    yield from _of_token_ids()
    yield from _of_encoders()
    yield from _of_images()
    yield from _of_forms()


def _json(path: str, members: Any) -> bytes:
    return json.dumps(
        {"model": MODELS.get(path, "encoder"), **members}, separators=(",", ":"), ensure_ascii=False
    ).encode()


def _with(path: str, name: str, value: str) -> bytes:
    """A body whose last member is given as JSON."""
    members = {"messages": [_user("Hi")]} if path == CHAT and name != "messages" else {}
    return _json(path, members)[:-1] + f',"{name}":{value}}}'.encode()


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _repeat(item: str, count: int) -> str:
    return "[" + ",".join([item] * count) + "]"


def _numbered(item: str, count: int) -> str:
    return ",".join(item % number for number in range(count))


def _of_structure() -> Iterator[Body]:
    """Bodies of many parts: whichever parameter they are in, they are not built."""
    arrays = _repeat("[]", 2_790_000)
    yield Body(COMPLETIONS, "1.3 M arrays", _with(COMPLETIONS, "prompt", _repeat("[]", 1_390_000)))
    yield Body(CHAT, "2.7 M arrays", _with(CHAT, "tools", arrays))
    yield Body(
        CHAT,
        "messages: a string of 2.7 M arrays",
        _with(CHAT, "messages", json.dumps(arrays)),
        "messages",
    )
    members = "{" + _numbered('"k%d":1', 700_000) + "}"
    yield Body(CHAT, "metadata of 700,000 members", _with(CHAT, "metadata", members))
    yield Body(CHAT, "700,000 members", _with(CHAT, "a", "1")[:-1] + b"," + members[1:].encode())
    biases = "{" + _numbered('"%d":1', 720_000) + "}"
    yield Body(CHAT, "logit_bias of 720,000 tokens", _with(CHAT, "logit_bias", biases))
    mixed = "[" + ",".join(["[]"] * 501_000 + ['""'] * 2_200_000) + "]"
    yield Body(CHAT, "501,000 arrays, 2.2 M texts", _with(CHAT, "tools", mixed))
    numbers = _repeat("1", 2_090_000)
    yield Body(EMBEDDINGS, "2 M numbers", _with(EMBEDDINGS, "input", numbers))
    many = "{" + _numbered('"k%d":1', 49_980) + "}"
    for path, name in ((CHAT, "metadata"), (CHAT, "logit_bias"), (EMBEDDINGS, "input")):
        yield Body(path, f"{name} of 49,980 members", _with(path, name, many), name)
    objects = _repeat('{"a":""}', 49_980)
    yield Body(EMBEDDINGS, "49,980 objects", _with(EMBEDDINGS, "input", objects), "input")
    long = _repeat("9" * 4300, 970)
    yield Body(EMBEDDINGS, "970 numbers of 4,300 digits", _with(EMBEDDINGS, "input", long), "input")
    large = _repeat("9" * 20, 199_000)
    yield Body(
        EMBEDDINGS, "199,000 numbers of 20 digits", _with(EMBEDDINGS, "input", large), "input"
    )
    nested = "[" * 9_000_000
    yield Body(EMBEDDINGS, "4 MiB of brackets", _with(EMBEDDINGS, "input", nested)[: 4 * MIB])


def _of_chat() -> Iterator[Body]:
    for name, text in (
        ("English", "Hello, world; this is a text. "),
        ("code", 'if (a[1] == "x") { return f(b, c); }\n'),
        ("Chinese", "\u6f22\u5b57\uff0c"),
        ("escapes", '"\\,\n'),
    ):
        # As many characters as fit into 4 MB once they are JSON.
        count = 4_100_000 // (len(json.dumps(text, ensure_ascii=False).encode()) - 2)
        body = _json(CHAT, {"messages": [_user(text * count)]})
        yield Body(CHAT, f"4 MB of {name}", body, status=200)
    long = _json(CHAT, {"messages": [_user("Hello, " * 1_190_000)]})
    yield Body(CHAT, "8.3 MB of text", long, status=200)
    parts = [{"type": "text", "text": "x"}]
    talk = _json(CHAT, {"messages": [_user(parts * 2)] * 2048})
    yield Body(CHAT, "2,048 messages of 2 parts", talk, status=200)
    inner = json.dumps([_user(parts * 2)] * 2048)
    yield Body(CHAT, "the same as a string", _json(CHAT, {"messages": inner}), status=200)
    many = _json(CHAT, {"messages": [_user(parts * 33)] * 2000})
    yield Body(CHAT, "66,000 parts", many, "messages")
    yield Body(CHAT, "2,048 messages, 4,096 tool calls", _tool_calls(4096), status=200)
    yield Body(CHAT, "4,224 tool calls", _tool_calls(4224), "messages")
    unknown = {**_user("x"), **{f"k{number}": 1 for number in range(16)}}
    yield Body(
        CHAT, "2,048 messages of 16 unknown members", _json(CHAT, {"messages": [unknown] * 2048})
    )
    unknown = {**_user("x"), **{f"k{number}": 1 for number in range(4)}}
    few = _json(CHAT, {"messages": [unknown] * 2048})
    yield Body(CHAT, "2,048 messages of 4 unknown members", few, "messages[0].k0")
    image = base64.b64encode(PNG + bytes(6_000_000)).decode()
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    yield Body(CHAT, "an image of 6 MB", _json(CHAT, {"messages": [_user([url])]}), status=200)


def _tool_calls(count: int) -> bytes:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = {"role": "assistant", "tool_calls": [call] * 2}
    return _json(CHAT, {"messages": [answer] * (count // 2)})


def _tools(schemas: Iterable[Any]) -> bytes:
    tools = [
        {"type": "function", "function": {"name": f"f{number}", "parameters": schema}}
        for number, schema in enumerate(schemas)
    ]
    return _json(CHAT, {"messages": [_user("Hi")], "tools": tools})


def _of_schemas() -> Iterator[Body]:
    def schema(nodes: int, **more: Any) -> dict[str, Any]:
        return {"properties": {f"a{number}": more for number in range(nodes)}}

    yield Body(CHAT, "128 tools of 60 properties", _tools([schema(60)] * 128), status=200)
    yield Body(CHAT, "128 tools of 500 properties", _tools([schema(500)] * 128))
    enum = schema(1, enum=[f"{number}" for number in range(500)])
    yield Body(CHAT, "128 tools with an enum of 500", _tools([enum] * 128), status=200)
    patterns = [
        {"properties": {"a": {"pattern": f"{tool:03}" + "[ab]" * 31}}} for tool in range(128)
    ]
    yield Body(CHAT, "16,000 characters of patterns", _tools(patterns), status=200)
    deep: dict[str, Any] = {}
    for _ in range(14):
        deep = {"properties": {"a": deep, "b": {}}}
    yield Body(CHAT, "128 deep schemas", _tools([deep] * 128), status=200)


def _of_token_ids() -> Iterator[Body]:
    ids = list(range(100_000, 100_000 + 128_000))
    yield Body(
        COMPLETIONS, "a prompt of 128,000 tokens", _json(COMPLETIONS, {"prompt": ids}), status=200
    )
    prompts = [ids[:3_900]] * 128
    yield Body(
        COMPLETIONS,
        "128 prompts of 3,900 tokens",
        _json(COMPLETIONS, {"prompt": prompts}),
        status=200,
    )
    lists = _with(COMPLETIONS, "prompt", _repeat("[1]", 65_536))
    yield Body(COMPLETIONS, "65,536 prompts of a token", lists)
    inputs = _json(EMBEDDINGS, {"input": [ids[:146]] * 2048})
    yield Body(EMBEDDINGS, "2,048 inputs of 146 tokens", inputs, status=200)
    lists = _with(EMBEDDINGS, "input", _repeat("[1]", 65_536))
    yield Body(EMBEDDINGS, "65,536 inputs of a token", lists, "input")
    yield Body(
        EMBEDDINGS, "1.3 M tokens", _json(EMBEDDINGS, {"input": list(range(1_200_000))}), status=413
    )


def _of_encoders() -> Iterator[Body]:
    texts = ["Hello, world; this is a text. " * 65] * 2048
    yield Body(EMBEDDINGS, "2,048 texts of 2 KB", _json(EMBEDDINGS, {"input": texts}), status=200)
    quoted = _with(EMBEDDINGS, "input", '"' + '\\",' * 1_390_000 + '"')
    yield Body(EMBEDDINGS, "4 MB of quotes", quoted, status=200)
    documents = [{"text": text} for text in texts]
    body = _json(RERANK, {"query": "q", "documents": documents})
    yield Body(RERANK, "2,048 documents of 2 KB", body, status=200)
    many = _json(RERANK, {"query": "q", "documents": [{"text": "x"}] * 65_536})
    yield Body(RERANK, "65,536 documents", many, "documents")
    many = _json(SCORE, {"text_1": ["x"] * 65_536, "text_2": ["x"] * 65_536})
    yield Body(SCORE, "131,072 texts", many, "text_1")


def _of_images() -> Iterator[Body]:
    prompt = _json(IMAGES, {"prompt": "\u6f22" * 32_000, "negative_prompt": "x" * 32_000})
    yield Body(IMAGES, "two prompts of 32,000 characters", prompt, status=200)
    loras = _with(IMAGES, "loras", _repeat('{"name":"a"}', 60_000))
    yield Body(IMAGES, "60,000 LoRA adapters", loras, "loras")
    yield Body(IMAGES, "2 MB", _json(IMAGES, {"prompt": "x" * 2 * MIB}), "prompt")


def _part(name: str, data: bytes, more: str = "", head: bytes = b"") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"{more}\r\n'.encode()
    return f"--{BOUNDARY}\r\n".encode() + disposition + head + b"\r\n" + data + b"\r\n"


def _of_forms() -> Iterator[Body]:
    own = _part("model", b"painter") + _part("prompt", b"a dot")
    end = f"--{BOUNDARY}--\r\n".encode()
    file = '; filename="a.png"'

    def form(name: str, *parts: bytes, param: str | None = None, status: int = 400) -> Body:
        return Body(EDITS, name, b"".join([own, *parts, end]), param, status, FORM)

    image = _part("image", PNG + bytes(10 * MIB - 8), file)
    mask = _part("mask", PNG + bytes(10 * MIB - 8), file)
    yield form("two files of 10 MiB", image, mask, status=200)
    fields = [_part(f"f{number}", b"x" * 255 * 1024) for number in range(61)]
    yield form("61 fields of 255 KiB", *fields)
    yield form("400,000 tiny parts", *[_part("f", b"")] * 300_000)
    dashes = _part("image", PNG + f"\r\n--{BOUNDARY[:-1]}".encode() * 640_000, file)
    yield form("a file of half boundaries", dashes, param=None, status=200)
    yield form("a file of line ends", _part("image", PNG + b"\r\n" * 5_000_000, file), status=200)
    yield form("a file of line feeds", _part("image", PNG + b"\r" * 10_000_000, file), status=200)
    heads = _part("image", PNG, file, b"x: y\r\n" * 1_000_000)
    yield form("a part of a million headers", heads)
    long = _part("image", PNG, file, b"x: " + b"y" * 20_000_000 + b"\r\n")
    yield form("a header of 20 MB", long)
    preamble = b"\r\n" * 10_000_000 + own + end
    yield Body(EDITS, "a preamble of 20 MB", preamble, content_type=FORM)
    epilogue = own + _part("image", PNG, file) + end + b"\r\n-" * 7_000_000
    yield Body(EDITS, "an epilogue of 20 MB", epilogue, status=200, content_type=FORM)
    loras = _part("image", PNG, file) + _part("loras", _repeat("{}", 80_000).encode())
    yield form("80,000 LoRA adapters", loras, param="loras")
