"""Guard G13: what may be fetched, where a name may lead, and that failures all sound the same."""

import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from cryptography.x509.oid import NameOID

from api.errors import InvalidImageError
from deployments.ingress.image_fetcher import HttpsImages, PublicResolver, to_target

HOSTS = frozenset({"good.example", "192.0.2.7"})


def test_plain_https_to_a_listed_host_is_asked_for() -> None:
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
def test_anything_else_is_not(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # whichever it is, it is never told
        to_target(url, HOSTS)


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
async def test_a_name_that_leads_inside_leads_nowhere(addresses: list[str]) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        await PublicResolver(names(*addresses)).resolve("good.example", 443)


async def test_a_public_name_leads_to_its_addresses() -> None:
    (found,) = await PublicResolver(names("8.8.8.8")).resolve("good.example", 443)

    assert (found["host"], found["hostname"], found["port"]) == ("8.8.8.8", "good.example", 443)


def make_certificate() -> bytes:
    """A key, and a certificate that it has signed for itself."""
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


@pytest.fixture
async def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpsImages]:
    """A server of its own certificate on loopback, which is public for once."""
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(make_certificate())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    app = web.Application()
    app.router.add_get("/picture", lambda _: web.Response(body=b"x" * 1000))
    app.router.add_get("/elsewhere", lambda _: web.Response(status=302, headers={"location": "/"}))
    app.router.add_get("/missing", lambda _: web.Response(status=404, body=b"secret"))
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port: int = runner.addresses[0][1]

    async def resolve(self: Any, host: str, _: int = 0, family: Any = 0) -> list[Any]:
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": port,
                "family": 2,
                "proto": 0,
                "flags": 0,
            }
        ]

    trusting = ssl.create_default_context(cafile=str(certificate))
    connector = aiohttp.TCPConnector
    monkeypatch.setattr(PublicResolver, "resolve", resolve)
    monkeypatch.setattr(
        aiohttp, "TCPConnector", lambda **options: connector(**options, ssl=trusting)
    )
    yield HttpsImages(HOSTS)
    await runner.cleanup()


async def test_what_is_there_is_fetched(images: HttpsImages) -> None:
    assert await images.fetch("https://good.example/picture", 1000) == b"x" * 1000


@pytest.mark.parametrize("path", ["picture", "elsewhere", "missing"])
async def test_every_failure_sounds_the_same(images: HttpsImages, path: str) -> None:
    """Too large by a byte, led elsewhere, or not there."""
    with pytest.raises(InvalidImageError) as caught:
        await images.fetch(f"https://good.example/{path}", 999)

    assert caught.value.message == "An image URL cannot be used."
