"""Logs a failure that lasts once, and not each time that it is met."""

import logging


class Outage:
    """Whether something fails at present, such as writing to a full disk."""

    def __init__(self, logger: logging.Logger) -> None:
        """Begin without a failure; log with `logger`."""
        self._logger = logger
        self.is_present = False

    def begin(self, message: str, *arguments: object) -> None:
        """Note a failure; the first of several is logged as an error."""
        if not self.is_present:
            self._logger.error(message, *arguments)
        self.is_present = True

    def end(self, message: str | None = None) -> None:
        """Note a success; the first after a failure is logged if there is a message."""
        if self.is_present and message is not None:
            self._logger.info(message)
        self.is_present = False
