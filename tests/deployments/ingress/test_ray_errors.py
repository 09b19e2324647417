"""The translation of Ray's errors."""

import asyncio
import inspect
from typing import Any

import pytest
from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors

from api.errors import (
    ApiError,
    ContextLengthExceededError,
    EngineError,
    ModelFailedError,
    OverloadedError,
    ReplicaLostError,
)
from deployments.ingress.replica_calls import translate_ray_errors


def translated(error: BaseException) -> ApiError:
    with pytest.raises(ApiError) as caught, translate_ray_errors():
        raise error
    return caught.value


def in_replica(cause: BaseException) -> ray_errors.RayTaskError:
    """The error that a caller gets when a replica raises `cause`."""
    remote = ray_errors.RayTaskError("f", "Traceback: /srv/secret.py", cause, "p", 1, "127.0.0.1")
    return remote.as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (serve_errors.BackPressureError(5, 5), OverloadedError),
        (serve_errors.DeploymentUnavailableError(None), ModelFailedError),
        (serve_errors.ReplicaUnavailableError("r"), ReplicaLostError),
        (serve_errors.RequestCancelledError("r"), EngineError),
        (ray_errors.RayActorError(), ReplicaLostError),
        (ray_errors.ActorDiedError(), ReplicaLostError),
        (ray_errors.ActorUnavailableError("gone", None), ReplicaLostError),
        (ray_errors.NodeDiedError("gone"), ReplicaLostError),
        (ray_errors.WorkerCrashedError(), ReplicaLostError),
        (ray_errors.OwnerDiedError("00", None, ""), ReplicaLostError),
        (ray_errors.OutOfMemoryError("big"), EngineError),
        (ray_errors.TaskCancelledError(), EngineError),
        (in_replica(ValueError("/srv/secret")), EngineError),
        (ValueError("/srv/secret"), EngineError),  # as it arrives over gRPC
        (ContextLengthExceededError("too long"), ContextLengthExceededError),  # likewise
        (in_replica(serve_errors.BackPressureError(5, 5)), OverloadedError),
        (
            in_replica(ContextLengthExceededError("Too long.", param="input")),
            ContextLengthExceededError,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_error_of_ray_is_translated(error: Exception, ours: type[ApiError]) -> None:
    assert type(translated(error)) is ours


def test_api_error_of_a_replica_arrives_unchanged() -> None:
    error = translated(in_replica(ContextLengthExceededError("Too long.", param="input[3]")))

    assert type(error) is ContextLengthExceededError
    assert (error.message, error.param) == ("Too long.", "input[3]")


def test_foreign_error_does_not_show_its_text() -> None:
    error = translated(in_replica(ValueError("/srv/secret")))

    assert "secret" not in str(error.body())


def classes_of(module: Any) -> list[type[Exception]]:
    return [
        cls for _, cls in inspect.getmembers(module, inspect.isclass) if issubclass(cls, Exception)
    ]


def blank(cls: type[Exception]) -> Exception:
    """An instance made without the constructor, because each has other parameters."""
    error = cls.__new__(cls)
    error.cause = None  # type: ignore[attr-defined]  # what only RayTaskError has
    return error


@pytest.mark.parametrize(
    "cls", [*classes_of(ray_errors), *classes_of(serve_errors)], ids=lambda cls: cls.__name__
)
def test_every_error_class_of_ray_is_translated(cls: type[Exception]) -> None:
    assert isinstance(translated(blank(cls)), ApiError)


def test_cancellation_is_not_translated() -> None:
    with pytest.raises(asyncio.CancelledError), translate_ray_errors():
        raise asyncio.CancelledError
