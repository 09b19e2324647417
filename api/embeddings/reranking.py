"""`POST /v1/rerank` and `POST /v1/score`: scores of pairs of texts."""

import time
from typing import Any

import msgspec

from api.embeddings.endpoint import ModelCall, check_count, to_truncation
from api.endpoint import RequestMeta
from api.errors import InvalidRequestError
from api.ports.embeddings import ScoreRequest, Scores
from api.schema.reranking import RerankRequest, ScoringRequest
from api.settings import Limits


def prepare_rerank(request: RerankRequest, meta: RequestMeta, limits: Limits) -> ModelCall:
    """Check and translate a request for a ranking.

    Raises:
        InvalidRequestError: it has too many documents.
    """
    check_count(len(request.documents), "documents", limits)
    call = ScoreRequest(
        request_id=meta.request_id,
        queries=(request.query,),
        documents=tuple(request.documents),
        names=("query", "documents"),
        context=meta.context,
        is_search=True,
        truncation=to_truncation(request, limits),
    )

    async def render(scores: Scores) -> bytes:
        return to_ranking(request, meta.request_id, scores)

    return ModelCall(lambda backend: backend.score(call), render)


def to_ranking(request: RerankRequest, request_id: str, scores: Scores) -> bytes:
    """Render the documents by descending score; equal scores keep the order of the request.

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


def prepare_score(request: ScoringRequest, meta: RequestMeta, limits: Limits) -> ModelCall:
    """Check and translate a request for scores.

    Raises:
        InvalidRequestError: it has too many texts, or the two sides do not make pairs.
    """
    first, second = request.text_1, request.text_2
    check_count(len(first), "text_1", limits)
    check_count(len(second), "text_2", limits)
    if len(first) not in (1, len(second)):
        raise InvalidRequestError.value(
            "text_1",
            f"{len(first)} texts cannot be paired with {len(second)}; 'text_1' must hold one text, "
            "or as many as 'text_2'",
        )
    call = ScoreRequest(
        request_id=meta.request_id,
        queries=tuple(first),
        documents=tuple(second),
        names=("text_1", "text_2"),
        context=meta.context,
        truncation=to_truncation(request, limits),
    )

    async def render(scores: Scores) -> bytes:
        return to_scores(request, meta.request_id, scores)

    return ModelCall(lambda backend: backend.score(call), render)


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
