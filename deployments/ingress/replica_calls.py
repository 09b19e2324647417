"""Calls of replicas through Serve's handles, and the translation of what Ray raises."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors

from api.errors import ApiError, EngineError, ModelFailedError, OverloadedError, ReplicaLostError

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponse

logger = logging.getLogger(__name__)


class ReplicaCall:
    """One call of a replica's method."""

    def __init__(self, method: "DeploymentHandle[Any]", *args: Any) -> None:
        """Prepare the call; `result` makes it."""
        self._method = method
        self._args = args
        self._response: DeploymentResponse[Any] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether Serve has not found a replica for it yet."""
        # There is no public way to ask (ray.serve.handle, 2.60).
        return self._response is None or not self._response._replica_result_future.done()

    async def result(self) -> Any:
        """Make the call; cancelling this coroutine cancels the call in the replica too.

        Raises:
            ApiError: the replica's own error, or a translation of Ray's.
        """
        with translate_ray_errors():
            # Within the coroutine: if it is cancelled before it starts, no call is made.
            self._response = self._method.remote(*self._args)
            self._args = ()
            try:
                return await self._response
            except asyncio.CancelledError:
                self._response.cancel()
                raise


async def call(method: "DeploymentHandle[Any]", *args: Any) -> Any:
    """Call a replica's method, as `ReplicaCall.result`."""
    return await ReplicaCall(method, *args).result()


@contextmanager
def translate_ray_errors() -> Iterator[None]:
    """Translate what a handle call raises into `api.errors`.

    Over gRPC, which Serve uses in its throughput mode, a replica's error arrives unchanged.
    Otherwise it arrives as a class that is both `RayTaskError` and the original, and its text
    contains the remote traceback (ray.exceptions, 2.60): then only its cause is used.
    """
    try:
        yield
    except serve_errors.BackPressureError:
        raise OverloadedError("The model has more requests than it can take; try again.") from None
    except serve_errors.DeploymentUnavailableError:
        raise ModelFailedError("The model could not be loaded.", param="model") from None
    except ray_errors.RayTaskError as error:
        if isinstance(error.cause, ApiError):
            raise error.cause from None
        raise EngineError("The model failed to answer this request.") from error
    except (
        serve_errors.ReplicaUnavailableError,
        ray_errors.RayActorError,
        ray_errors.WorkerCrashedError,
        ray_errors.NodeDiedError,
        ray_errors.LocalRayletDiedError,
        ray_errors.ObjectLostError,  # the result was lost with its node before it was read
    ):
        raise ReplicaLostError("The replica that worked on this request was lost.") from None
    except ApiError:
        raise
    except Exception as error:  # everything else is an internal error of the model
        logger.exception("a call to a model failed")
        raise EngineError("The model failed to answer this request.") from error
