"""`GET /v1/models` and `GET /v1/models/{id}`, whose ids may hold slashes."""

from starlette.types import Receive, Scope, Send

from api.exchange import send_json
from api.registry import Models, model_not_found


class ListModels:
    """All models that are configured, whatever their state: `/ready` tells that."""

    def __init__(self, models: Models) -> None:
        """List `models`."""
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        cards = [card for entry in self._models.current for card in entry.cards()]
        await send_json(send, {"object": "list", "data": cards})


class RetrieveModel:
    """One model by its id."""

    def __init__(self, models: Models) -> None:
        """Look up in `models`."""
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            ModelNotFound: no model of that id is configured.
        """
        model_id = scope["path_params"]["model_id"]
        card = self._models.current.find_card(model_id)
        if card is None:
            raise model_not_found(model_id)
        await send_json(send, card)
