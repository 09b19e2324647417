"""The composition root: the builders that `import_path` names in serve_config.yaml.

Each takes its typed `args` and makes one application with one deployment.
"""

from ray.serve import Application

from deployments.config.diffusion import DiffusionArgs
from deployments.config.embedding import EmbeddingArgs
from deployments.config.ingress import IngressArgs
from deployments.config.ledger import LedgerArgs
from deployments.config.llm import LlmArgs
from deployments.ingress.replica import Ingress
from deployments.ledger.replica import Ledger
from deployments.models.diffusion import Diffusion
from deployments.models.embedding import Embedding
from deployments.models.llm import LLM


def ingress(args: IngressArgs) -> Application:
    """The HTTP face; one to a service."""
    return Ingress.bind(args)


def ledger(args: LedgerArgs) -> Application:
    """Keys, limits and usage; at most one to a service."""
    return Ledger.bind(args)


def llm(args: LlmArgs) -> Application:
    """A model for chat and completions."""
    return LLM.bind(args)


def embedding(args: EmbeddingArgs) -> Application:
    """A model for embeddings."""
    return Embedding.bind(args)


def diffusion(args: DiffusionArgs) -> Application:
    """A model for images."""
    return Diffusion.bind(args)
