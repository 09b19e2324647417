"""Which URLs may be fetched, which addresses a host may have, and that all failures look alike."""

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from cryptography.x509.oid import NameOID

from api.errors import InvalidImageError
from deployments.ingress.image_fetcher import HttpsImages, PublicResolver, to_target

HOSTS = frozenset({"good.example", "192.0.2.7"})


def test_plain_https_to_a_listed_host_is_allowed() -> None:
    assert to_target("https://good.example/a.png?b=c", HOSTS).host == "good.example"
    assert to_target("https://GOOD.example:443/", HOSTS).host == "good.example"


@pytest.mark.parametrize(
    "url",
    [
        "http://good.example/",
        "https://other.example/",
        "https://good.example.evil/",
        "https://good.example:8265/",
        "https://good.example\\@127.0.0.1/",
        "https://user@good.example/",
        "https://:pw@good.example/",
        "https://good.example@127.0.0.1/",
        "https://127.0.0.1/#good.example",
        "https://good.example\t/",
        "https://good.exämple/",
        "https://169.254.169.254/",
        "https://[::ffff:127.0.0.1]/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://localhost./",
        "file:///etc/passwd",
        "gopher://good.example/",
        "//good.example/",
        "",
    ],
)
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the client never learns the reason
        to_target(url, HOSTS)


def test_checking_accepts_an_allowed_url_without_a_look_up() -> None:
    HttpsImages(HOSTS, PublicResolver(names())).check("https://good.example/a.png")


def test_checking_refuses_any_other_url_without_the_reason() -> None:
    with pytest.raises(InvalidImageError, match=r"^An image URL cannot be used\.$"):
        HttpsImages(HOSTS).check("https://other.example/")


def names(*addresses: str) -> Callable[[str], Any]:
    async def look_up(host: str) -> list[str]:
        return list(addresses)

    return look_up


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["fd00::1"],
        ["0.0.0.0"],
        ["8.8.8.8", "127.0.0.1"],
        [],
    ],
)
async def test_host_with_a_private_address_is_refused(addresses: list[str]) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        await PublicResolver(names(*addresses)).resolve("good.example", 443)


async def test_host_with_public_addresses_is_resolved() -> None:
    (found,) = await PublicResolver(names("8.8.8.8")).resolve("good.example", 443)

    assert (found["host"], found["hostname"], found["port"]) == ("8.8.8.8", "good.example", 443)


def make_certificate() -> bytes:
    """A private key and its self-signed certificate, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "good.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("good.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


class LoopbackResolver(AbstractResolver):
    """Resolves every host to one port of the loopback address."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host="127.0.0.1",
                port=self._port,
                family=socket.AF_INET,
                proto=0,
                flags=0,
            )
        ]

    async def close(self) -> None:
        pass


@pytest.fixture
async def images(tmp_path: Path) -> AsyncIterator[HttpsImages]:
    """A fetcher that reaches a local server and trusts its certificate."""
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(make_certificate())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    app = web.Application()
    app.router.add_get("/image", lambda _: web.Response(body=b"x" * 1000))
    app.router.add_get("/elsewhere", lambda _: web.Response(status=302, headers={"location": "/"}))
    app.router.add_get("/missing", lambda _: web.Response(status=404, body=b"secret"))
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    trusting = ssl.create_default_context(cafile=str(certificate))
    yield HttpsImages(HOSTS, LoopbackResolver(runner.addresses[0][1]), trusting)
    await runner.cleanup()


async def test_content_is_fetched(images: HttpsImages) -> None:
    assert await images.fetch("https://good.example/image", 1000) == b"x" * 1000


@pytest.mark.parametrize("path", ["image", "elsewhere", "missing"])
async def test_all_failures_have_the_same_message(images: HttpsImages, path: str) -> None:
    """One byte too large, redirected, or missing."""
    with pytest.raises(InvalidImageError) as caught:
        await images.fetch(f"https://good.example/{path}", 999)

    assert caught.value.message == "An image URL cannot be used."
