"""`POST /v1/rerank` and `POST /v1/score`: how well texts fit each other."""

import time
from typing import Any

import msgspec

from api.embeddings.endpoint import Asked, Call
from api.errors import InvalidRequestError
from api.ports.embeddings import EmbeddingBackend, ScoreRequest, Scores
from api.schema.reranking import RerankRequest, ScoringRequest


def prepare_rerank(request: RerankRequest, asked: Asked) -> Call:
    """Put a request into the service's own words.

    Raises:
        InvalidRequestError: it has too many documents.
    """
    asked.check_count(len(request.documents), "documents")
    work = ScoreRequest(
        request_id=asked.request_id,
        queries=(request.query,),
        documents=tuple(request.documents),
        names=("query", "documents"),
        context=asked.context,
        is_search=True,
        cut=asked.to_truncation(request),
    )

    async def call(backend: EmbeddingBackend) -> bytes:
        return to_ranking(request, asked.request_id, await backend.score(work))

    return call


def to_ranking(request: RerankRequest, request_id: str, scores: Scores) -> bytes:
    """Best first; equals in the order in which they came.

    Source: Jina's and vLLM's `/v1/rerank`; Cohere's has the same `results`.
    """
    order = sorted(range(len(scores.scores)), key=lambda index: -scores.scores[index])
    results = []
    for index in order[: request.top_n]:
        result: dict[str, Any] = {"index": index, "relevance_score": scores.scores[index]}
        if request.return_documents:
            result["document"] = {"text": request.documents[index]}
        results.append(result)
    answer = {"id": f"rerank-{request_id}", "model": request.model, "results": results}
    return msgspec.json.encode({**answer, "usage": _to_usage(scores)})


def prepare_score(request: ScoringRequest, asked: Asked) -> Call:
    """Put a request into the service's own words.

    Raises:
        InvalidRequestError: it has too many texts, or as many on neither side as would make pairs.
    """
    first, second = request.text_1, request.text_2
    asked.check_count(len(first), "text_1")
    asked.check_count(len(second), "text_2")
    if len(first) not in (1, len(second)):
        raise InvalidRequestError(
            f"Invalid value for 'text_1': {len(first)} texts make no pairs with {len(second)}; one "
            "is scored against all of 'text_2', as many against one each.",
            param="text_1",
        )
    work = ScoreRequest(
        request_id=asked.request_id,
        queries=tuple(first),
        documents=tuple(second),
        names=("text_1", "text_2"),
        context=asked.context,
        cut=asked.to_truncation(request),
    )

    async def call(backend: EmbeddingBackend) -> bytes:
        return to_scores(request, asked.request_id, await backend.score(work))

    return call


def to_scores(request: ScoringRequest, request_id: str, scores: Scores) -> bytes:
    """Source: vLLM 0.32 entrypoints/pooling/scoring/protocol.py, `ScoreResponse`."""
    data = [
        {"index": index, "object": "score", "score": score}
        for index, score in enumerate(scores.scores)
    ]
    answer = {
        "id": f"score-{request_id}",
        "object": "list",
        "created": int(time.time()),
        "model": request.model,
        "data": data,
        "usage": _to_usage(scores),
    }
    return msgspec.json.encode(answer)


def _to_usage(scores: Scores) -> dict[str, int]:
    return {
        "prompt_tokens": scores.usage.prompt_tokens,
        "total_tokens": scores.usage.prompt_tokens,
    }
