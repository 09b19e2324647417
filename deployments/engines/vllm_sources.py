"""Options of vLLM that name another model, or how its files are read."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from deployments.engines.sources import EngineStartError, find_problem

_SOURCES = (
    ("tokenizer", "tokenizer_revision"),
    ("hf_config_path", None),
    ("generation_config", None),
    ("speculative_config.model", "speculative_config.revision"),
)
"""Options that name another model, and those that say at which commit."""

_NO_PIN = "download the commit that you want, and name its folder"

_READERS_OF_PICKLES = ("pt", "npcache")
"""Values of `load_format` with which vLLM passes over safetensors."""


def find_vllm_problems(
    options: Mapping[str, Any], trust: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Yield options of vLLM that would load what is not trusted, and the reason."""
    for option, revision in _SOURCES:
        source = _find_option(options, option)
        if not isinstance(source, str):
            continue
        commit = _find_option(options, revision) if revision else None
        pin = f"set {revision} to the 40 hexadecimal digits of a commit" if revision else _NO_PIN
        if problem := find_problem(f"{source}@{commit}" if commit else source, trust, pin):
            yield option, problem
    if str(options.get("load_format")).lower() in _READERS_OF_PICKLES and "pickles" not in trust:
        yield (
            "load_format",
            "it loads pickles, which can run code; leave it out, or set 'trust: [pickles]' under "
            "args if you trust the model's author",
        )


def check_vllm_options(options: Mapping[str, Any], trust: Collection[str]) -> None:
    """Check that options of vLLM load nothing that is not trusted.

    Raises:
        EngineStartError: they would.
    """
    for option, problem in find_vllm_problems(options, trust):
        raise EngineStartError(f"{option}: {problem}")


def _find_option(options: Mapping[str, Any], path: str) -> Any:
    value: Any = options
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
