"""Wrong requests raise the SDK's matching error class, with a message that names the cause."""

import openai
import pytest
from openai import OpenAI

from tests.helpers.service import Service

pytestmark = pytest.mark.e2e

CHAT = "smollm2-135m-instruct"
MESSAGES = [{"role": "user", "content": "hi"}]


def test_all_three_models_are_listed(service: Service):
    listed = [model.id for model in service.openai().models.list()]

    assert listed == [CHAT, "all-minilm-l6-v2", "shapes"]
    assert service.openai().models.retrieve(CHAT).id == CHAT


def test_wrong_key_raises_authentication_error(service: Service):
    with pytest.raises(openai.AuthenticationError, match="not valid"):
        OpenAI(base_url=f"{service.url}/v1", api_key="sk-wrong", max_retries=0).models.list()


def test_unknown_model_raises_not_found_error(service: Service):
    with pytest.raises(openai.NotFoundError, match="'gpt-9' does not exist"):
        service.openai().chat.completions.create(model="gpt-9", messages=MESSAGES)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model": "shapes"}, "serves /v1/images/generations"),
        ({"temperature": 3}, "'temperature'"),
        ({"max_tokens": 100_000}, "maximum context length is 4096"),
        ({"messages": []}, "'messages'"),
        ({"extra_body": {"no_such_thing": 1}}, "'no_such_thing'"),
        ({"tool_choice": "auto"}, "'tool_choice'"),
        ({"extra_body": {"web_search_options": {}}}, "'web_search_options'"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, "maximum context length"),
    ],
)
def test_wrong_request_raises_bad_request_error(service: Service, parameters: dict, message: str):
    with pytest.raises(openai.BadRequestError, match=message):
        service.openai().chat.completions.create(
            **{"model": CHAT, "messages": MESSAGES, **parameters}
        )


def test_token_id_outside_the_vocabulary_is_rejected(service: Service):
    with pytest.raises(openai.BadRequestError, match="token ids end at"):
        service.openai().completions.create(model=CHAT, prompt=[10_000_000])
