"""Finds models, adapters and options that the replicas would refuse to load, without a download."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from deployments.config.adapters import list_adapters
from deployments.config.base import FAKE_SOURCE, Args, ModelArgs
from deployments.config.diffusion import DiffusionArgs
from deployments.config.embedding import EmbeddingArgs
from deployments.config.llm import LlmArgs
from deployments.config.user_config import UserConfigError, apply_user_config
from deployments.engines.sources import find_problem
from deployments.engines.vllm_sources import find_vllm_problems


def source_problems(
    schema: type[Args], values: Mapping[str, Any], path: str, live: Iterable[tuple[str, Any]]
) -> Iterator[str]:
    """Yield a line for each source that is not trusted, after the path of its key.

    Args:
        schema: of the application's arguments.
        values: the arguments.
        path: of the arguments.
        live: each `user_config` of the application, after its path.
    """
    try:
        deployed = schema.model_validate(values)
    except ValidationError:
        return  # its problems are reported, and come first
    if not isinstance(deployed, ModelArgs):
        return
    reported = dict(_find_untrusted(deployed))
    yield from (f"{path}.{key}: {problem}" for key, problem in reported.items())
    for place, user_config in live:
        try:
            changed = apply_user_config(deployed, user_config)
        except UserConfigError:
            continue  # reported already
        for key, problem in _find_untrusted(changed):
            if reported.get(key) != problem:
                yield f"{place}.{key}: {problem}"


def _find_untrusted(args: ModelArgs) -> Iterator[tuple[str, str]]:
    for key, source in _find_sources(args):
        if problem := find_problem(source, args.trust):
            yield key, problem
    key, options = _find_vllm_options(args)
    for option, problem in find_vllm_problems(options, args.trust):
        yield f"{key}.{option}", problem


def _find_sources(args: ModelArgs) -> Iterator[tuple[str, str]]:
    if args.source != FAKE_SOURCE:
        yield "source", args.source
    if isinstance(args, LlmArgs):
        for number, adapter in enumerate(args.adapters):
            yield f"adapters[{number}].source", adapter.source
        configured = {adapter.id for adapter in args.adapters}
        for name, folder in list_adapters(args).items():
            if name not in configured:
                yield f"adapters_dir.{name}", folder
    if isinstance(args, DiffusionArgs):
        for name, lora in args.engine.loras.items():
            yield f"engine.loras.{name}.source", lora.source


def _find_vllm_options(args: ModelArgs) -> tuple[str, Mapping[str, Any]]:
    if args.source == FAKE_SOURCE:
        return "", {}
    if isinstance(args, LlmArgs):
        return "engine", args.engine
    return "vllm", args.vllm if isinstance(args, EmbeddingArgs) else {}
