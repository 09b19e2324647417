"""What every model's replica does first: find the source, load the engine, or say why not."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from deployments.config import ModelArgs
from deployments.logs import configure_logs
from deployments.sources import SourceError, resolve_source

logger = logging.getLogger(__name__)

Engine = TypeVar("Engine")

FAKE_SOURCE = "fake:"
"""Selects an engine without a model; see `deployments.engines.fake_engines`."""


def load_engine(
    args: ModelArgs, load: Callable[[str], Engine], load_fake: Callable[[], Engine]
) -> Engine:
    """Load the engine of a model.

    Args:
        args: the model.
        load: makes the engine from a local folder.
        load_fake: makes the engine without a model.

    Raises:
        SourceError: it cannot be done; one line says why, and has been logged.
    """
    configure_logs()
    try:
        if args.source == FAKE_SOURCE:
            return load_fake()
        return _load(args, load)
    except SourceError as error:
        logger.error("%s", error)
        raise


def _load(args: ModelArgs, load: Callable[[str], Engine]) -> Engine:
    folder: Path = resolve_source(args.id, args.source)
    logger.info("model '%s': loading from '%s'", args.id, args.source)
    try:
        engine = load(str(folder))
    except Exception as error:  # every library has its own; to us each means "cannot be loaded"
        logger.exception("model '%s': the engine's own words", args.id)
        reason = f"{type(error).__name__}: {error}"
        raise SourceError(args.id, args.source, reason) from error
    logger.info("model '%s': loaded", args.id)
    return engine
