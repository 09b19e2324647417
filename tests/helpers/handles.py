"""Deployment handles without Ray, for tests of the ingress."""

import asyncio
from collections.abc import Generator
from typing import Any


class FakeResponse:
    """A `DeploymentResponse` that can be awaited and cancelled."""

    def __init__(self) -> None:
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False

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
        self._error = error

    def options(self, *, multiplexed_model_id: str) -> "FakeMethod":
        self.preferred = multiplexed_model_id
        return self

    def remote(self, *args: Any) -> FakeResponse:
        if self._error is not None:
            raise self._error
        self.calls.append(args)
        self.responses.append(FakeResponse())
        self.called.set()
        return self.responses[-1]


class FakeHandle:
    """A `DeploymentHandle` with the methods of all our replicas."""

    def __init__(self, error: Exception | None = None) -> None:
        self.complete = FakeMethod(error)
        self.stream = FakeMethod(error)
        self.embed = FakeMethod(error)
        self.score = FakeMethod(error)
        self.generate = FakeMethod(error)
