"""Requests that cost a server far more than their sender; each was the worst of its kind once."""

import json
from typing import Any

PATH_CHAT = "/v1/chat/completions"
PATH_COMPLETIONS = "/v1/completions"
PATH_EMBEDDINGS = "/v1/embeddings"


def to_bodies(model: str) -> dict[str, tuple[str, bytes]]:
    """Build the bodies, of up to 8 MB: what it is → path and JSON."""
    name = json.dumps(model)
    arrays = ",".join(["[]"] * 2_790_000)
    members = ",".join(f'"{number:06}":1' for number in range(760_000))
    numbers = ",".join(["1"] * 4_000_000)
    biases = ",".join(f'"{number}":1' for number in range(760_000))
    texts = ",".join(['"a"'] * 1_600_000)
    prompt = "The keeper of the light wrote down what he saw. " * 174_000
    return {
        "`messages` as a string of 2.8 M arrays": (
            PATH_CHAT,
            f'{{"model":{name},"messages":"[{arrays}]"}}'.encode(),
        ),
        "an object of 760,000 members": (PATH_CHAT, f'{{"model":{name},{members}}}'.encode()),
        "`prompt` of 4 M numbers": (
            PATH_COMPLETIONS,
            f'{{"model":{name},"prompt":[{numbers}]}}'.encode(),
        ),
        "`logit_bias` of 760,000 entries": (
            PATH_CHAT,
            f'{{"model":{name},"messages":[{_message("Hi")}],"logit_bias":{{{biases}}}}}'.encode(),
        ),
        "501,000 arrays beside 1.6 M texts": (
            PATH_CHAT,
            f'{{"model":{name},"a":[{",".join(["[]"] * 501_000)}],"b":[{texts}]}}'.encode(),
        ),
        "a prompt of 8 MB": (
            PATH_CHAT,
            f'{{"model":{name},"messages":[{_message(prompt)}],"max_tokens":1}}'.encode(),
        ),
        "three long `maxLength` in a schema": (PATH_CHAT, json.dumps(_schema(model)).encode()),
    }


def _message(text: str) -> str:
    return json.dumps({"role": "user", "content": text})


def _schema(model: str) -> dict[str, Any]:
    texts = {name: {"type": "string", "maxLength": 1000} for name in ("a", "b", "c")}
    schema = {
        "type": "object",
        "properties": texts,
        "required": list(texts),
        "additionalProperties": False,
    }
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Write."}],
        "max_tokens": 5,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "texts", "schema": schema},
        },
    }
