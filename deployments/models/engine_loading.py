"""What every model replica does first: resolve the source and load the engine, or log why not."""

import logging
import os
from collections.abc import Callable
from typing import TypeVar

from deployments.config.base import FAKE_SOURCE, ModelArgs
from deployments.engines.sources import EngineStartError, SourceError, resolve_source
from deployments.models.gpu_visibility import hide_unassigned_gpus
from deployments.observability.logs import configure_logs
from deployments.transport.replica_ports import close_replica_ports

logger = logging.getLogger(__name__)

Engine = TypeVar("Engine")


def load_engine(args: ModelArgs, build: Callable[[str | None], Engine]) -> Engine:
    """Load the engine of a model.

    Args:
        args: which model, and from where.
        build: builds the engine from a local folder, or the fake engine from None.

    Raises:
        SourceError: the engine cannot be loaded; the reason is one line, and is logged.
    """
    configure_logs()
    close_replica_ports()
    hide_unassigned_gpus(os.environ)
    try:
        return _load(args, build)
    except SourceError as error:
        logger.error("%s", error)
        raise


def _load(args: ModelArgs, build: Callable[[str | None], Engine]) -> Engine:
    folder = (
        None
        if args.source == FAKE_SOURCE
        else str(resolve_source(args.id, args.source, args.trust))
    )
    logger.info("model '%s': loading from '%s'", args.id, args.source)
    try:
        engine = build(folder)
    except Exception as error:  # each library has its own errors; all mean "cannot be loaded"
        logger.exception("model '%s': the engine failed to load", args.id)
        is_clear = isinstance(error, EngineStartError)
        reason = str(error) if is_clear else f"{type(error).__name__}: {error}"
        raise SourceError(args.id, args.source, reason) from error
    logger.info("model '%s': loaded", args.id)
    return engine
