"""The port to where prompts are kept whose senders allow it."""

from typing import Protocol


class PromptLog(Protocol):
    """Keeps the prompts of requests that say `log_prompt`."""

    def keep(self, request_id: str, model: str, body: bytes) -> None:
        """Keep one request's body, which is JSON; returns at once and never raises."""
