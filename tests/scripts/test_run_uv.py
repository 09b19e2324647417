import sys
from pathlib import Path

import pytest

from scripts.run_uv import is_elsewhere, read_settings, to_environment, to_options

MIRROR = "https://user:secret@mirror.example/simple?a=b"


def test_the_narrower_section_counts_and_the_environment_most() -> None:
    listed = [
        ":env:.find-links='/env'",
        "global.find-links='/global'",
        "global.index-url='https://global.example'",
        "install.index-url='https://install.example'",
        "wheel.index-url='https://wheel.example'",
    ]

    assert read_settings(listed) == {"find-links": "/env", "index-url": "https://install.example"}


def test_values_are_read_as_pip_writes_them() -> None:
    listed = [f"global.index-url='{MIRROR}'", r"global.extra-index-url='\nhttps://a\nhttps://b'"]

    settings = read_settings([*listed, "global.cert=''", "Looking for more?"])

    assert settings == {"index-url": MIRROR, "extra-index-url": "\nhttps://a\nhttps://b"}


def test_uv_is_told_what_pip_is_told() -> None:
    settings = {
        "index-url": MIRROR,
        "extra-index-url": "\nhttps://a.example\nhttps://b.example",
        "find-links": "/wheels https://links.example",
        "trusted-host": "a.example b.example",
        "cert": "/company.pem",
        "client-cert": "/me.pem",
        "proxy": "http://proxy.example:3128",
        "timeout": "60",
    }

    assert to_environment(settings, {}) == {
        "UV_DEFAULT_INDEX": MIRROR,
        "UV_INDEX": "https://a.example https://b.example",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,https://links.example",
        "UV_INSECURE_HOST": "a.example b.example",
        "SSL_CERT_FILE": "/company.pem",
        "SSL_CLIENT_CERT": "/me.pem",
        "ALL_PROXY": "http://proxy.example:3128",
    }


def test_without_a_configuration_uv_is_told_nothing() -> None:
    assert to_environment({}, {}) == {}
    assert to_options({}) == []


@pytest.mark.parametrize("given", ["UV_DEFAULT_INDEX", "UV_INDEX_URL"])
def test_what_is_said_to_uv_itself_stays(given: str) -> None:
    assert to_environment({"index-url": MIRROR}, {given: "https://uv.example"}) == {}


def test_a_home_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    assert to_environment({"find-links": "~/wheels"}, {}) == {"UV_FIND_LINKS": "/home/me/wheels"}


@pytest.mark.parametrize(("value", "options"), [("1", ["--no-index"]), ("false", [])])
def test_no_index_is_an_option(value: str, options: list[str]) -> None:
    assert to_options({"no-index": value}) == options


def test_a_cache_beside_the_environment_is_not_elsewhere() -> None:
    beside = Path(sys.prefix).parent / "no such folder" / "cache"

    assert not is_elsewhere({"UV_CACHE_DIR": str(beside)})


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs another file system")
def test_a_cache_on_another_file_system_is_elsewhere() -> None:
    assert is_elsewhere({"UV_CACHE_DIR": "/dev/shm/cache"})
