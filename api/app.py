"""The whole HTTP face on one screen: routes, and the layers around them from outside in."""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

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
from api.embeddings.endpoint import EncoderEndpoint
from api.embeddings.reranking import prepare_rerank, prepare_score
from api.errors import MethodNotAllowedError, RouteNotFoundError
from api.health import Health, Ready
from api.images.edits import EditImages
from api.images.files import PUBLIC_PATH, ImageFile
from api.images.generations import GenerateImages
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
from api.settings import Limits
from api.text.chat import read_chat
from api.text.completions import read_completion
from api.text.endpoint import TextEndpoint
from api.text.image_parts import fetch_images

logger = logging.getLogger(__name__)

PUBLIC_PATHS = frozenset({"/health", "/ready"})

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def create_app(
    models: Models,
    keys: Keys | None,
    rules: Services,
    *,
    administration: Administration | None = None,
    lifespan: Lifespan | None = None,
    is_request_id_echoed: bool = False,
) -> Starlette:
    """Build the application.

    Args:
        models: what to serve; may change while the application runs.
        keys: who may ask, which may change too; None lets everyone.
        rules: what one request may be.
        administration: of keys and usage; without it there are no URLs for either.
        lifespan: what to run alongside, from start-up to shutdown.
        is_request_id_echoed: the server around it writes `x-request-id` into responses itself.
    """
    routes = [
        Route("/health", Health(), methods=["GET"]),
        Route("/ready", Ready(models, keys), methods=["GET"]),
        *_model_routes(models, rules),
        *(_administration_routes(administration, rules.limits) if administration else ()),
    ]
    middleware = [
        Middleware(RequestIdMiddleware, is_echoed_outside=is_request_id_echoed),
        Middleware(ErrorMiddleware),
        Middleware(
            AuthMiddleware,
            keys=keys,
            public_paths=PUBLIC_PATHS,
            public_pattern=PUBLIC_PATH if rules.image_store else None,
        ),
    ]
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: _raise_ours},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def _model_routes(models: Models, rules: Services) -> list[Route]:
    prepare = None
    if rules.image_fetcher is not None:
        prepare = partial(fetch_images, fetcher=rules.image_fetcher, limits=rules.limits)
    chat = TextEndpoint("chat/completions", ChatRequest, read_chat, models, rules, prepare)
    completions = TextEndpoint("completions", CompletionRequest, read_completion, models, rules)
    return [
        Route("/v1/models", ListModels(models), methods=["GET"]),
        Route("/v1/models/{model_id:path}", RetrieveModel(models), methods=["GET"]),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        *_encoder_routes(models, rules),
        Route("/v1/images/generations", GenerateImages(models, rules), methods=["POST"]),
        Route("/v1/images/edits", EditImages(models, rules), methods=["POST"]),
        *_file_routes(rules),
    ]


def _file_routes(rules: Services) -> list[Route]:
    if rules.image_store is None:
        return []
    return [Route("/v1/images/files/{name}", ImageFile(rules.image_store), methods=["GET"])]


def _encoder_routes(models: Models, rules: Services) -> list[Route]:
    embeddings = EncoderEndpoint(
        "embeddings", EmbeddingsRequest, prepare_embeddings, models=models, rules=rules
    )
    rerank = EncoderEndpoint("rerank", RerankRequest, prepare_rerank, models=models, rules=rules)
    score = EncoderEndpoint("score", ScoringRequest, prepare_score, models=models, rules=rules)
    return [
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        # Clients of Cohere and of vLLM have URLs of their own for these; the bodies are the same.
        *(
            Route(path, rerank, methods=["POST"])
            for path in ("/v1/rerank", "/v2/rerank", "/rerank")
        ),
        *(Route(path, score, methods=["POST"]) for path in ("/v1/score", "/score")),
    ]


def _administration_routes(administration: Administration, limits: Limits) -> list[Route]:
    all_keys, one_key = AllKeys(administration, limits), OneKey(administration, limits)
    rotate = RotateKey(administration, limits)
    return [
        Route("/v1/keys", all_keys, methods=["GET", "POST"]),
        Route("/v1/keys/{key_id}", one_key, methods=["GET", "POST", "DELETE"]),
        Route("/v1/keys/{key_id}/rotate", rotate, methods=["POST"]),
        Route("/v1/usage", ReportUsage(administration), methods=["GET"]),
    ]


async def _raise_ours(request: Request, error: Exception) -> Response:
    """Turn what the router raises into an error of ours, for the shield to write."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        refusal = MethodNotAllowedError(f"This URL does not take the method {request.method}.")
        refusal.allowed = (error.headers or {}).get("Allow", "")
        raise refusal
    raise RouteNotFoundError("There is no such URL; the API lives under /v1.")
