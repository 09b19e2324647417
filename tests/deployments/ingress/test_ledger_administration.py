import asyncio
from typing import Any

import pytest
from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors

from api.errors import (
    ApiError,
    InvalidRequestError,
    KeyNotFoundError,
    RouteNotFoundError,
    UnavailableError,
)
from api.ports.administration import NewSecret, UsageQuery
from api.ports.tenancy import Key
from deployments.ingress.ledger_administration import LedgerAdministration

KEY = Key("k0000001", "ann", "acme")
QUERY = UsageQuery(0.0, 1.0)
CALLS = [
    ("create_key", ({"name": "ann"},), NewSecret(KEY, "sk-secret")),
    ("list_keys", (), [KEY]),
    ("get_key", ("ann",), KEY),
    ("change_key", ("ann", {"is_disabled": True}), KEY),
    ("rotate_key", ("ann", 60.0), NewSecret(KEY, "sk-secret")),
    ("delete_key", ("ann",), None),
    ("report_usage", (QUERY,), []),
]
ALL = pytest.mark.parametrize(("method", "arguments", "result"), CALLS, ids=[c[0] for c in CALLS])


class FakeHandle:
    """A ledger's handle: every method returns `outcome`, or raises it."""

    def __init__(self, outcome: Any) -> None:
        self._outcome = outcome
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        handle = self

        class Method:
            def remote(self, *arguments: Any) -> Any:
                handle.calls.append((name, arguments))
                return handle._answer()

        return Method()

    def _answer(self) -> "asyncio.Future[Any]":
        answer = asyncio.get_running_loop().create_future()
        if isinstance(self._outcome, Exception):
            answer.set_exception(self._outcome)
        else:
            answer.set_result(self._outcome)
        return answer


@ALL
async def test_each_method_is_one_call_of_the_ledger(method: str, arguments: tuple, result: Any):
    handle = FakeHandle(result)
    administration = LedgerAdministration(lambda: handle)

    assert await getattr(administration, method)(*arguments) == result
    assert handle.calls == [("administer", (method, *arguments))]


@ALL
async def test_without_a_ledger_the_route_does_not_exist(
    method: str, arguments: tuple, result: Any
):
    with pytest.raises(RouteNotFoundError, match="no ledger"):
        await getattr(LedgerAdministration(lambda: None), method)(*arguments)


async def test_handle_is_looked_up_with_each_call():
    """A ledger may be added to the configuration of a running service."""
    handle = None
    administration = LedgerAdministration(lambda: handle)
    with pytest.raises(RouteNotFoundError):
        await administration.list_keys()
    handle = FakeHandle([KEY])

    assert await administration.list_keys() == [KEY]


@pytest.mark.parametrize("error", [KeyNotFoundError("No such key."), InvalidRequestError("Twice.")])
@pytest.mark.parametrize("is_wrapped", [False, True])
async def test_error_of_the_ledger_reaches_the_client_unchanged(error: ApiError, is_wrapped: bool):
    raised = ray_errors.RayTaskError("get_key", "traceback", error) if is_wrapped else error
    with pytest.raises(type(error)) as caught:
        await LedgerAdministration(lambda: FakeHandle(raised)).get_key("ann")

    assert str(caught.value) == str(error)


@pytest.mark.parametrize(
    "error",
    [
        ray_errors.ActorDiedError(),
        ray_errors.ActorUnavailableError("gone", None),
        ray_errors.RayTaskError("f", "traceback", ValueError("k")),
        serve_errors.DeploymentUnavailableError("d"),
        serve_errors.BackPressureError(1, 1),
        RuntimeError("anything"),
        UnavailableError("The database is away."),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_unreachable_ledger_is_unavailable_and_not_called_a_model(error: Exception):
    with pytest.raises(UnavailableError, match=r"Keys and usage") as caught:
        await LedgerAdministration(lambda: FakeHandle(error)).list_keys()

    assert caught.value.status == 503
    assert "model" not in str(caught.value).lower()
    assert "traceback" not in str(caught.value)
