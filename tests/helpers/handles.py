"""Deployment handles without Ray, for tests of the ingress."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class FakeResponse:
    """A `DeploymentResponse` that can be awaited and cancelled."""

    def __init__(self) -> None:
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False
        self._replica_result_future: asyncio.Future[None] = (
            asyncio.get_running_loop().create_future()
        )

    def assign(self) -> None:
        """Tell the caller that a replica has the call."""
        self._replica_result_future.set_result(None)

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.shield(self.result).__await__()

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeMethod:
    """A handle's method: records its calls, whose results the test sets."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.responses: list[FakeResponse] = []
        self.called = asyncio.Event()
        self.preferred: str | None = None
        self.error = error
        self.has_replicas = True

    def options(self, *, multiplexed_model_id: str) -> "FakeMethod":
        self.preferred = multiplexed_model_id
        return self

    def remote(self, *args: Any) -> FakeResponse:
        if self.error is not None:
            raise self.error
        self.calls.append(args)
        self.responses.append(FakeResponse())
        if self.has_replicas:
            self.responses[-1].assign()
        self.called.set()
        return self.responses[-1]


class FakeHandle:
    """A `DeploymentHandle` of any of our replicas."""

    def __init__(self, lease: FakeMethod) -> None:
        self.lease: Any = lease


class LocalMethod:
    """A method of a replica in this process; a call is a task, which is a response too."""

    def __init__(self, method: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._method = method
        self.calls: list[tuple[Any, ...]] = []
        self._responses: set[asyncio.Task[Any]] = set()

    def options(self, *, multiplexed_model_id: str) -> "LocalMethod":
        return self

    def remote(self, *args: Any) -> "asyncio.Task[Any]":
        self.calls.append(args)
        response = asyncio.ensure_future(self._method(*args))
        self._responses.add(response)
        return response

    async def wait(self) -> None:
        """Wait until all calls have ended."""
        if self._responses:
            await asyncio.wait(self._responses, timeout=5)
        assert all(response.done() for response in self._responses)


class LocalHandle:
    """A `DeploymentHandle` of one replica in this process, called without Ray."""

    def __init__(self, replica: Any) -> None:
        self.lease: Any = LocalMethod(replica.lease)
