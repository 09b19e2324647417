"""`GET /health`: this process answers. `GET /ready`: every model does."""

from starlette.types import Receive, Scope, Send

from api.exchange import send_json
from api.registry import Models


class Health:
    """200 for as long as the ingress is alive; nothing is looked up."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await send_json(send, {"status": "ok"})


class Ready:
    """200 when every configured model can take requests, else 503; the body says which cannot."""

    def __init__(self, models: Models) -> None:
        """Report on `models`."""
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        states = {
            entry.id: {"kind": entry.kind, "state": entry.state, "message": entry.message}
            for entry in self._models.current
        }
        status = self._status()
        await send_json(
            send, {"status": status, "models": states}, 200 if status == "ready" else 503
        )

    def _status(self) -> str:
        states = {entry.state for entry in self._models.current}
        if not self._models.is_known or "starting" in states:
            return "starting"
        return "failed" if "failed" in states else "ready"
