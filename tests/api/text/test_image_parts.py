import asyncio
import base64

import pytest

from api.errors import InvalidImageError
from api.ports.text import Conversation, ImageInput
from api.settings import Limits
from api.text.image_parts import read_image
from tests.helpers.asgi import post, request
from tests.helpers.fakes import LLM, FakeLlm, build_app

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"


def to_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("data", "kind"),
    [(PNG, "png"), (b"\xff\xd8\xff\xe0", "jpeg"), (b"RIFF\0\0\0\0WEBPVP8 ", "webp"), (PNG, "PNG")],
)
def test_files_of_three_formats_are_decoded(data: bytes, kind: str) -> None:
    assert read_image(to_url(data, kind), "p", Limits()) == data


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://169.254.169.254/",
        "http://127.0.0.1:8265/api/version",
        "http://[::ffff:127.0.0.1]",
        "http://2130706433",
        "https://good.example\\@127.0.0.1/",
        "file:///etc/passwd",
        "FILE://x",
        "gopher://x",
        "data:image/svg+xml;base64,AAAA",
        "data:image/gif;base64,AAAA",
        "data:text/html;base64,AAAA",
        "data:image/png,AAAA",
        "data:image/png;base64,A",
        "data:image/png;base64,@@@@",
        "data:image/png;base64,AAAA\n",
        "data:image/png;base64,é",
        to_url(b""),
        to_url(b"GIF89a"),
        to_url(b"RIFF\0\0\0\0WAVE"),
        to_url(b"II*\0"),
    ],
    ids=lambda url: url[:32],
)
def test_other_url_is_refused_and_not_echoed(url: str) -> None:
    with pytest.raises(InvalidImageError) as caught:
        read_image(url, "messages[0].content", Limits())

    assert caught.value.param == "messages[0].content"
    assert not url or url not in caught.value.message


def test_file_over_the_limit_is_refused_before_it_is_decoded() -> None:
    limits = Limits(max_input_image_bytes=1024)

    assert len(read_image(to_url(PNG + bytes(1000)), "p", limits)) == 1012
    with pytest.raises(InvalidImageError, match="1024"):
        read_image("data:image/png;base64," + "@" * 2000, "p", limits)


class FakeFetcher:
    """A fetcher for one host, where every URL is the same image."""

    def __init__(self, data: bytes = PNG) -> None:
        self.fetched: list[str] = []
        self._data = data

    def check(self, url: str) -> None:
        if not url.startswith("https://good.example/"):
            raise InvalidImageError("An image URL cannot be used.", param="messages")

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        self.fetched.append(url)
        return self._data


def showing(*urls: str) -> dict[str, object]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"model": LLM, "messages": [{"role": "user", "content": parts}]}


async def test_url_of_an_allowed_host_is_fetched() -> None:
    llm, fetcher = FakeLlm(), FakeFetcher()
    app = build_app(llm, image_fetcher=fetcher)
    body = showing("https://good.example/a.png", to_url(PNG + b"2"))

    response = await request(app, "POST", "/v1/chat/completions", json_body=body)

    assert response.status == 200
    assert fetcher.fetched == ["https://good.example/a.png"]
    (prompt,) = llm.generations[0].prompts
    assert isinstance(prompt, Conversation)
    assert prompt.messages[0].content == (ImageInput(PNG), ImageInput(PNG + b"2"))


async def test_text_is_not_changed_by_fetching() -> None:
    llm, fetcher = FakeLlm(), FakeFetcher()
    body = {"model": LLM, "messages": "Hi"}

    await request(
        build_app(llm, image_fetcher=fetcher), "POST", "/v1/chat/completions", json_body=body
    )

    assert fetcher.fetched == []
    (prompt,) = llm.generations[0].prompts
    assert isinstance(prompt, Conversation)
    assert prompt.messages[0].content == "Hi"


class HangingFetcher(FakeFetcher):
    """A fetcher that never returns, and records that it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.fetching = asyncio.Event()
        self.is_cancelled = False

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        self.fetching.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.is_cancelled = True
        raise AssertionError


async def test_client_that_disconnects_cancels_the_fetch_and_nothing_is_generated() -> None:
    llm, fetcher = FakeLlm(), HangingFetcher()
    app = build_app(llm, image_fetcher=fetcher)

    async with post(app, "/v1/chat/completions", showing("https://good.example/a")) as exchange:
        await fetcher.fetching.wait()
        exchange.disconnect()
        response = await exchange.end()

    assert fetcher.is_cancelled
    assert (response.messages, llm.generations) == ([], [])


async def test_deadline_cancels_the_fetch() -> None:
    fetcher = HangingFetcher()
    app = build_app(image_fetcher=fetcher, limits=Limits(request_timeout_s=0.01))
    body = showing("https://good.example/a.png")

    response = await request(app, "POST", "/v1/chat/completions", json_body=body)

    assert response.error() == (504, "deadline_exceeded", None)
    assert fetcher.is_cancelled


async def test_too_many_images_are_refused_before_any_is_fetched() -> None:
    fetcher = FakeFetcher()
    app = build_app(image_fetcher=fetcher, limits=Limits(max_input_images=1))
    body = showing("https://good.example/a.png", "https://good.example/b.png")

    response = await request(app, "POST", "/v1/chat/completions", json_body=body)

    assert response.error() == (400, "invalid_value", "messages")
    assert fetcher.fetched == []


@pytest.mark.parametrize(
    ("url", "data", "param"),
    [
        ("https://evil.example/a.png", PNG, "messages"),
        ("https://good.example/a.html", b"<html>", "messages[0].content"),
    ],
    ids=["host that is not listed", "file that is no image"],
)
async def test_remote_image_that_cannot_be_used_is_refused(
    url: str, data: bytes, param: str
) -> None:
    llm = FakeLlm()
    app = build_app(llm, image_fetcher=FakeFetcher(data))

    response = await request(app, "POST", "/v1/chat/completions", json_body=showing(url))

    assert response.error() == (400, "invalid_image_url", param)
    assert llm.generations == []


async def test_failed_fetch_of_a_streamed_request_has_its_status() -> None:
    app = build_app(image_fetcher=FakeFetcher(b"<html>"))
    body = {**showing("https://good.example/a.html"), "stream": True}

    response = await request(app, "POST", "/v1/chat/completions", json_body=body)

    assert response.error() == (400, "invalid_image_url", "messages[0].content")


async def test_url_without_a_fetcher_is_refused() -> None:
    body = showing("https://good.example/a.png")

    response = await request(build_app(), "POST", "/v1/chat/completions", json_body=body)

    assert response.error() == (400, "invalid_image_url", "messages[0].content")
