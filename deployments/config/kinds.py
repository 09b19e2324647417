"""The arguments of each kind of model."""

from collections.abc import Mapping

from api.ports.tenancy import ModelKind
from deployments.config.base import ModelArgs
from deployments.config.diffusion import DiffusionArgs
from deployments.config.embedding import EmbeddingArgs
from deployments.config.llm import LlmArgs

ARGUMENTS: Mapping[ModelKind, type[ModelArgs]] = {
    "llm": LlmArgs,
    "embedding": EmbeddingArgs,
    "diffusion": DiffusionArgs,
}
