"""The arguments of a model as its replicas use them: `args`, and `user_config` over them."""

from dataclasses import replace
from typing import TypeVar

from pydantic import ValidationError

from deployments.config.base import ModelArgs
from deployments.config.kinds import ARGUMENTS
from deployments.config.user_config import UserConfigError, apply_user_config
from deployments.discovery import DiscoveredModel

Arguments = TypeVar("Arguments", bound=ModelArgs)


def to_arguments(model: DiscoveredModel, schema: type[Arguments]) -> Arguments:
    """Return the arguments that a model's replicas use.

    Raises:
        ValidationError: `args` are invalid.
        UserConfigError: `user_config` is.
    """
    return apply_user_config(schema.model_validate(model.args), model.user_config)


def keep_valid_user_config(
    model: DiscoveredModel, before: DiscoveredModel | None
) -> DiscoveredModel:
    """Replace an invalid `user_config`, which replicas refuse, by the one that they go on with.

    Args:
        model: what Serve says now.
        before: the same application as this function returned it last; None if it is new.
    """
    if model.user_config is None:
        return model
    try:
        to_arguments(model, ARGUMENTS[model.kind])
    except UserConfigError as error:
        in_use = before.user_config if before and before.kind == model.kind else None
        return replace(model, user_config=in_use, message=model.message or str(error))
    except ValidationError:  # no version with these arguments can run, which Serve says
        pass
    return model
