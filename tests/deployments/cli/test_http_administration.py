from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from api.errors import ApiError, InvalidRequestError, KeyNotFoundError, UnavailableError
from api.ports.administration import UsageQuery, UsageRow
from api.ports.tenancy import Key, KeyLimits
from deployments.cli.http_administration import HttpAdministration
from tests.deployments.cli.conftest import TIMEOUT_S, Running, serve
from tests.helpers.fakes import SECRET

FIELDS = {
    "name": "app",
    "tenant": "acme",
    "models": ("llm*",),
    "scopes": frozenset({"chat", "admin"}),
    "limits": KeyLimits(1, None, 3),
    "priority": "high",
    "may_log_prompts": True,
    "expires_at_s": 1_900_000_000,
}


@pytest.fixture
async def remote(service: Running) -> AsyncIterator[HttpAdministration]:
    async with HttpAdministration(f"{service.url}/v1/", SECRET) as remote:
        yield remote


@pytest.fixture
def odd_url() -> Iterator[str]:
    """A server that is not this service."""

    async def answer(request: Request) -> Response:
        if "location" in request.path_params["rest"]:
            return RedirectResponse("http://127.0.0.1:1/elsewhere")
        return PlainTextResponse("hello")

    server, thread = serve(Starlette(routes=[Route("/{rest:path}", answer)]))
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(TIMEOUT_S)


async def test_key_keeps_all_fields_over_http(remote: HttpAdministration, service: Running) -> None:
    new = await remote.create_key(FIELDS)

    assert new.key == Key(id=new.key.id, **FIELDS)  # type: ignore[arg-type]
    assert new.secret == "secret 1"
    assert [new.key] == await remote.list_keys() == list(service.administration.keys.values())
    assert await remote.get_key("app") == new.key


async def test_changed_fields_are_sent(remote: HttpAdministration) -> None:
    await remote.create_key(FIELDS)
    changes = {"expires_at_s": None, "is_disabled": True, "limits": {"requests_per_minute": None}}
    changed = await remote.change_key("app", changes)

    assert changed.expires_at_s is None
    assert changed.is_disabled
    assert changed.limits == KeyLimits(None, None, 3)


async def test_whole_limits_replace_all_limits(remote: HttpAdministration) -> None:
    await remote.create_key(FIELDS)

    assert (await remote.change_key("app", {"limits": KeyLimits(9)})).limits == KeyLimits(9)


async def test_names_are_quoted_in_paths(remote: HttpAdministration) -> None:
    new = await remote.create_key({"name": "a?b#c%2F é"})

    assert await remote.get_key("a?b#c%2F é") == new.key


async def test_usage_rows_keep_all_fields_over_http(
    remote: HttpAdministration, service: Running
) -> None:
    sums = {name: 1 for name, kind in UsageRow.__annotations__.items() if kind is int}
    row = UsageRow(day="2026-11-22", key_id="Abcd1234", key_name=None, model="llm", **sums)
    service.administration.rows = [row]

    assert await remote.report_usage(UsageQuery(86_400 * 20_000, 86_400 * 20_001)) == [row]


async def test_errors_of_the_service_are_raised(remote: HttpAdministration) -> None:
    await remote.create_key(FIELDS)

    with pytest.raises(KeyNotFoundError, match="no such key"):
        await remote.get_key("nothing")
    with pytest.raises(InvalidRequestError, match="Another key has the name"):
        await remote.create_key({"name": "app"})


async def test_wrong_admin_key_is_an_error(service: Running) -> None:
    async with HttpAdministration(service.url, "sk-wrong") as remote:
        with pytest.raises(ApiError, match="key is not valid"):
            await remote.list_keys()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "ftp://h", "http://[", ""])
async def test_unreachable_service_is_unavailable(url: str) -> None:
    async with HttpAdministration(url, SECRET) as remote:
        with pytest.raises(UnavailableError, match="does not answer as it should"):
            await remote.list_keys()


@pytest.mark.parametrize("path", ["", "/location"])
async def test_other_server_is_unavailable_and_its_redirects_are_not_followed(
    odd_url: str, path: str
) -> None:
    async with HttpAdministration(odd_url + path, SECRET) as remote:
        with pytest.raises(UnavailableError, match="does not answer as it should"):
            await remote.list_keys()
