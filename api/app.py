"""The ASGI application: all routes, and the middleware around them from the outside in."""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.access.key_ring import Keys
from api.admin.keys import AllKeys, OneKey, RotateKey
from api.admin.usage import ReportUsage
from api.embeddings.embeddings import prepare_embeddings
from api.embeddings.endpoint import EmbeddingDialect
from api.embeddings.reranking import prepare_rerank, prepare_score
from api.endpoint import Dialect, Endpoint
from api.errors import MethodNotAllowedError, RouteNotFoundError
from api.health import READY_PATH, Health, Ready
from api.images.edits import EditDialect
from api.images.files import PUBLIC_PATH, ImageFile
from api.images.generations import GenerationDialect
from api.middleware.auth import AuthMiddleware
from api.middleware.errors import ErrorMiddleware
from api.middleware.request_id import RequestIdMiddleware
from api.models import ListModels, RetrieveModel
from api.ports.administration import Administration
from api.registry import Models
from api.schema.chat import ChatRequest
from api.schema.completions import CompletionRequest
from api.schema.embeddings import EmbeddingsRequest
from api.schema.reranking import RerankRequest, ScoringRequest
from api.services import Services
from api.text.chat import prepare_chat
from api.text.completions import prepare_completion
from api.text.endpoint import TextDialect

logger = logging.getLogger(__name__)

PUBLIC_PATHS = frozenset({"/health", "/ready"})

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def create_app(
    models: Models,
    keys: Keys | None,
    services: Services,
    *,
    administration: Administration | None = None,
    lifespan: Lifespan | None = None,
    is_request_id_echoed: bool = False,
) -> Starlette:
    """Build the application.

    Args:
        models: may change while the application runs.
        keys: may change too; None turns authentication off.
        services: settings and ports of all endpoints.
        administration: of keys and usage; without it these routes do not exist.
        lifespan: runs from start-up to shutdown.
        is_request_id_echoed: the server itself adds `x-request-id` to responses.
    """
    routes = [
        Route("/health", Health(), methods=["GET"]),
        Route("/ready", ready := Ready(models, keys), methods=["GET"]),
        Route("/ready/{model_id:path}", ready, methods=["GET"]),
        *_model_routes(models, services),
        *(_administration_routes(administration, services) if administration else ()),
    ]
    middleware = [
        Middleware(RequestIdMiddleware, is_echoed_outside=is_request_id_echoed),
        Middleware(ErrorMiddleware),
        Middleware(
            AuthMiddleware,
            keys=keys,
            public_paths=PUBLIC_PATHS,
            public_patterns=[READY_PATH, *([PUBLIC_PATH] if services.image_store else ())],
        ),
    ]
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: _raise_api_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def _model_routes(models: Models, services: Services) -> list[Route]:
    chat = TextDialect("chat/completions", ChatRequest, prepare_chat, services, has_images=True)
    completions = TextDialect("completions", CompletionRequest, prepare_completion, services)
    embeddings = EmbeddingDialect("embeddings", EmbeddingsRequest, prepare_embeddings, services)
    rerank = EmbeddingDialect("rerank", RerankRequest, prepare_rerank, services)
    score = EmbeddingDialect("score", ScoringRequest, prepare_score, services)

    def post(dialect: Dialect[Any, Any, Any], *paths: str) -> list[Route]:
        endpoint = Endpoint(dialect, models, services)
        return [Route(path, endpoint, methods=["POST"]) for path in paths]

    return [
        Route("/v1/models", ListModels(models), methods=["GET"]),
        Route("/v1/models/{model_id:path}", RetrieveModel(models), methods=["GET"]),
        *post(chat, "/v1/chat/completions"),
        *post(completions, "/v1/completions"),
        *post(embeddings, "/v1/embeddings"),
        # Clients of Cohere and vLLM use other paths; the bodies are the same.
        *post(rerank, "/v1/rerank", "/v2/rerank", "/rerank"),
        *post(score, "/v1/score", "/score"),
        *post(GenerationDialect(services), "/v1/images/generations"),
        *post(EditDialect(services), "/v1/images/edits"),
        *_file_routes(services),
    ]


def _file_routes(services: Services) -> list[Route]:
    if services.image_store is None:
        return []
    return [Route("/v1/images/files/{name}", ImageFile(services.image_store), methods=["GET"])]


def _administration_routes(administration: Administration, services: Services) -> list[Route]:
    all_keys, one_key = AllKeys(administration, services), OneKey(administration, services)
    rotate = RotateKey(administration, services)
    return [
        Route("/v1/keys", all_keys, methods=["GET", "POST"]),
        Route("/v1/keys/{key_id}", one_key, methods=["GET", "POST", "DELETE"]),
        Route("/v1/keys/{key_id}/rotate", rotate, methods=["POST"]),
        Route("/v1/usage", ReportUsage(administration), methods=["GET"]),
    ]


async def _raise_api_error(request: Request, error: Exception) -> Response:
    """Translate the router's errors, so that ErrorMiddleware renders them."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        not_allowed = MethodNotAllowedError(f"This URL does not take the method {request.method}.")
        not_allowed.allowed = (error.headers or {}).get("Allow", "")
        raise not_allowed
    raise RouteNotFoundError("There is no such URL; the API lives under /v1.")
