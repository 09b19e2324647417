"""`GET /v1/models` and `GET /v1/models/{id}`; an id may contain slashes."""

from starlette.types import Receive, Scope, Send

from api.http.response import send_json
from api.middleware.auth import get_key
from api.registry import Models, model_not_found


class ListModels:
    """Lists the models that the key may use, in any state; `/ready` reports the states."""

    def __init__(self, models: Models) -> None:
        """List `models`."""
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        cards = self._models.for_key(get_key(scope)).cards()
        await send_json(send, {"object": "list", "data": cards})


class RetrieveModel:
    """Shows one model."""

    def __init__(self, models: Models) -> None:
        """Look up in `models`."""
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            ModelNotFoundError: no model has this id, or the key may not use it.
        """
        model_id = scope["path_params"]["model_id"]
        card = self._models.for_key(get_key(scope)).find_card(model_id)
        if card is None:
            raise model_not_found(model_id)
        await send_json(send, card)
