from dataclasses import replace
from typing import Any

from deployments.discovery import DiscoveredModel
from deployments.ingress.live_arguments import keep_valid_user_config

MODEL = DiscoveredModel("a", "m", "llm", "ready", None, 0, {"id": "m", "source": "fake:"})
VALID = {"default_max_tokens": 20}
INVALID = {"default_max_tokens": -1}


def model(user_config: Any, **changed: Any) -> DiscoveredModel:
    return replace(MODEL, user_config=user_config, **changed)


def test_valid_user_config_is_used() -> None:
    assert keep_valid_user_config(model(VALID), MODEL) == model(VALID)
    assert keep_valid_user_config(MODEL, model(VALID)) == MODEL


def test_invalid_user_config_is_replaced_by_the_one_before_and_explained() -> None:
    kept = keep_valid_user_config(model(INVALID), model(VALID))

    assert kept.user_config == VALID
    assert kept.message is not None
    assert kept.message.startswith("user_config.default_max_tokens: ")
    assert keep_valid_user_config(model(INVALID), kept) == kept


def test_invalid_user_config_of_a_new_model_counts_for_nothing() -> None:
    assert keep_valid_user_config(model(INVALID), None).user_config is None
    other = model({"max_waiting": 1}, kind="embedding")
    assert keep_valid_user_config(model(INVALID), other).user_config is None


def test_reason_why_a_version_is_not_in_use_is_not_replaced() -> None:
    kept = keep_valid_user_config(model(INVALID, message="it cannot be loaded"), None)

    assert kept.message == "it cannot be loaded"


def test_invalid_arguments_are_left_to_serve() -> None:
    invalid = model(VALID, args={"id": "m"})

    assert keep_valid_user_config(invalid, None) == invalid
