"""The composition root: the application builders that serve_config.yaml names as `import_path`.

Each takes its typed `args` and builds one application with one deployment.
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
    """Build the HTTP API; exactly one per service."""
    return Ingress.bind(args)


def ledger(args: LedgerArgs) -> Application:
    """Build the ledger of keys, limits and usage; at most one per service."""
    return Ledger.bind(args)


def llm(args: LlmArgs) -> Application:
    """Build a model for chat and completions."""
    return LLM.bind(args)


def embedding(args: EmbeddingArgs) -> Application:
    """Build a model for embeddings, reranking and scores."""
    return Embedding.bind(args)


def diffusion(args: DiffusionArgs) -> Application:
    """Build a model for images."""
    return Diffusion.bind(args)
