from dataclasses import replace
from typing import Any

from api.registry import TextOptions
from deployments.discovery import DiscoveredModel
from deployments.ingress.text_options import to_text_options


def options_of(**args: Any) -> TextOptions:
    model = DiscoveredModel(
        "a", "m", "llm", "ready", None, 0, {"id": "m", "source": "fake:", **args}
    )
    return to_text_options(model)


def test_options_come_from_the_configuration() -> None:
    options = options_of(
        default_max_tokens=512,
        stream_usage="last_chunk",
        adapters=[{"id": "a", "source": "/a"}],
    )

    assert options.default_max_tokens == 512
    assert options.usage_placement == "last_chunk"
    assert options.adapters == ("a",)


def test_parameters_without_effect_are_unsupported() -> None:
    able = options_of(engine={"reasoning_parser": "qwen3"}, template_options=["enable_thinking"])

    assert options_of().unsupported == {"reasoning_effort", "chat_template_kwargs"}
    assert able.unsupported == frozenset()


def test_options_follow_user_config() -> None:
    model = DiscoveredModel(
        "a", "m", "llm", "ready", None, 0, {"id": "m", "source": "fake:", "adapters_dir": "/a"}
    )
    changed = to_text_options(
        replace(
            model,
            user_config={
                "adapters": [{"id": "a", "source": "/a"}],
                "default_max_tokens": 5,
                "stream_usage": "last_chunk",
                "template_options": ["enable_thinking"],
            },
        )
    )

    assert changed.adapters == ("a",)
    assert changed.default_max_tokens == 5
    assert changed.usage_placement == "last_chunk"
    assert changed.template_options == {"enable_thinking"}
    assert changed.unsupported == {"reasoning_effort"}
    assert changed.fingerprint != to_text_options(model).fingerprint


def test_fingerprint_changes_with_the_configuration_only() -> None:
    assert options_of().fingerprint == options_of().fingerprint
    assert options_of().fingerprint != options_of(engine={"seed": 1}).fingerprint
    assert options_of().fingerprint.startswith("fp_")


def test_invalid_arguments_give_the_defaults() -> None:
    assert options_of(no_such_thing=1) == TextOptions()
