"""What every model's replica does first: find the source, load the engine, or say why not."""

import logging
from collections.abc import Callable
from typing import TypeVar

from deployments.config.base import ModelArgs
from deployments.engines.sources import SourceError, resolve_source
from deployments.observability.logs import configure_logs

logger = logging.getLogger(__name__)

Engine = TypeVar("Engine")

FAKE_SOURCE = "fake:"
"""Selects an engine without a model; see `deployments.engines.fakes`."""


def load_engine(args: ModelArgs, build: Callable[[str | None], Engine]) -> Engine:
    """Load the engine of a model.

    Args:
        args: the model.
        build: makes the engine from a local folder, or the fake one from None.

    Raises:
        SourceError: it cannot be done; one line says why, and has been logged.
    """
    configure_logs()
    try:
        return _load(args, build)
    except SourceError as error:
        logger.error("%s", error)
        raise


def _load(args: ModelArgs, build: Callable[[str | None], Engine]) -> Engine:
    folder = None if args.source == FAKE_SOURCE else str(resolve_source(args.id, args.source))
    logger.info("model '%s': loading from '%s'", args.id, args.source)
    try:
        engine = build(folder)
    except Exception as error:  # every library has its own; to us each means "cannot be loaded"
        logger.exception("model '%s': the engine's own words", args.id)
        reason = f"{type(error).__name__}: {error}"
        raise SourceError(args.id, args.source, reason) from error
    logger.info("model '%s': loaded", args.id)
    return engine
