"""The port to the log of prompts."""

from typing import Protocol


class PromptLog(Protocol):
    """Logs the prompts of requests with `log_prompt`."""

    def keep(self, request_id: str, model: str, body: bytes) -> None:
        """Log the JSON body of a request. Returns at once and never raises."""
