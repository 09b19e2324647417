from typing import Any, Self

import pytest
from pydantic import BaseModel, model_validator

from deployments.config.base import Args
from deployments.config.diffusion import DiffusionArgs
from deployments.config.embedding import EmbeddingArgs
from deployments.config.ingress import IngressArgs
from deployments.config.ledger import LedgerArgs
from deployments.config.llm import LlmArgs
from deployments.config.user_config import LiveArgs, UserConfigError, apply_user_config

LLM = LlmArgs(id="m", source="fake:", default_max_tokens=10, adapters_dir="/adapters")
INGRESS = IngressArgs.model_validate({"limits": {"max_choices": 3, "max_images": 2}})
ALL = (DiffusionArgs, EmbeddingArgs, IngressArgs, LedgerArgs, LlmArgs)


@pytest.mark.parametrize("schema", ALL)
def test_every_live_key_is_an_argument(schema: type[Args]) -> None:
    assert schema.live_keys <= schema.model_fields.keys()


def test_without_user_config_the_arguments_stay() -> None:
    assert apply_user_config(LLM, None) == apply_user_config(LLM, {}) == LLM


def test_values_win_over_the_arguments() -> None:
    changed = apply_user_config(
        LLM,
        {
            "default_max_tokens": None,
            "adapters": [{"id": "a", "source": "/a"}],
            "template_options": ["enable_thinking"],
        },
    )

    assert changed.default_max_tokens is None
    assert [adapter.id for adapter in changed.adapters] == ["a"]
    assert changed.template_options == {"enable_thinking"}
    assert changed.id == "m"


def test_mapping_replaces_only_the_keys_that_it_has() -> None:
    changed = apply_user_config(INGRESS, {"limits": {"max_choices": 5}})

    assert (changed.limits.max_choices, changed.limits.max_images) == (5, 2)


@pytest.mark.parametrize(
    ("args", "user_config", "reason"),
    [
        (LLM, 5, "user_config: must be a mapping"),
        (LLM, {"colour": 1}, "user_config.colour: there is no such key"),
        (
            LLM,
            {"source": "/x"},
            "user_config.source: changes with a restart only; it stands under args",
        ),
        (
            LLM,
            {"default_max_tokens": 0},
            "user_config.default_max_tokens: input should be greater than or equal to 1",
        ),
        (LLM, {"adapters": [{"id": "a"}]}, "user_config.adapters[0].source: is missing"),
        (
            INGRESS,
            {"limits": {"max_choics": 1}},
            "user_config.limits.max_choics: there is no such key",
        ),
        (INGRESS, {"limits": None}, "user_config.limits: input should be"),
        (
            LlmArgs(id="m", source="fake:"),
            {"adapters": [{"id": "a", "source": "/a"}]},
            "user_config.adapters: the model has been loaded without any",
        ),
    ],
)
def test_mistake_is_named(args: BaseModel, user_config: Any, reason: str) -> None:
    with pytest.raises(UserConfigError) as caught:
        apply_user_config(args, user_config)  # type: ignore[type-var]

    assert str(caught.value).startswith(reason)


def test_changed_arguments_are_validated_once() -> None:
    validated = 0

    class CountedArgs(LedgerArgs):
        @model_validator(mode="after")
        def count(self) -> Self:
            nonlocal validated
            validated += 1
            return self

    args = CountedArgs()
    apply_user_config(args, {"usage_retention_days": 7})

    assert validated == 2  # once of it is the constructor


@pytest.mark.parametrize("engine", [{"enable_lora": True}, {}])
def test_adapters_may_come_later_if_there_is_room_for_them(engine: dict[str, Any]) -> None:
    args = LlmArgs(id="m", source="fake:", engine=engine, adapters_dir=None if engine else "/a")

    changed = apply_user_config(args, {"adapters": [{"id": "a", "source": "/a"}]})

    assert [adapter.id for adapter in changed.adapters] == ["a"]


def test_invalid_change_keeps_what_was_in_use_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    live = LiveArgs(LLM)
    live.update({"default_max_tokens": 20})

    after = live.update({"default_max_tokens": -1, "max_waiting": 1})

    assert after is live.current
    assert (after.default_max_tokens, after.max_waiting) == (20, 1024)
    assert "user_config.default_max_tokens" in caplog.text


def test_removed_user_config_gives_the_arguments_back() -> None:
    live = LiveArgs(LLM)
    live.update({"default_max_tokens": 20})

    assert live.update(None) == LLM
