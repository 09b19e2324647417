import sys
from pathlib import Path

import pytest

from scripts.run_uv import is_cache_on_other_file_system, read_settings, to_environment, to_options

MIRROR = "https://user:secret@mirror.example/simple?a=b"


def test_environment_overrides_the_install_section_which_overrides_global() -> None:
    listed = [
        ":env:.find-links='/env'",
        "global.find-links='/global'",
        "global.index-url='https://global.example'",
        "install.index-url='https://install.example'",
        "wheel.index-url='https://wheel.example'",
    ]

    assert read_settings(listed) == {"find-links": "/env", "index-url": "https://install.example"}


def test_values_are_parsed_as_pip_prints_them() -> None:
    listed = [f"global.index-url='{MIRROR}'", r"global.extra-index-url='\nhttps://a\nhttps://b'"]

    settings = read_settings([*listed, "global.cert=''", "Looking for more?"])

    assert settings == {"index-url": MIRROR, "extra-index-url": "\nhttps://a\nhttps://b"}


def test_each_setting_of_pip_becomes_a_variable_of_uv() -> None:
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


def test_no_configuration_adds_no_variables_and_no_options() -> None:
    assert to_environment({}, {}) == {}
    assert to_options({}) == []


@pytest.mark.parametrize("given", ["UV_DEFAULT_INDEX", "UV_INDEX_URL"])
def test_index_variable_of_uv_overrides_pips_index(given: str) -> None:
    assert to_environment({"index-url": MIRROR}, {given: "https://uv.example"}) == {}


def test_tilde_in_a_path_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    assert to_environment({"find-links": "~/wheels"}, {}) == {"UV_FIND_LINKS": "/home/me/wheels"}


@pytest.mark.parametrize(("value", "options"), [("1", ["--no-index"]), ("false", [])])
def test_no_index_becomes_an_option_when_true(value: str, options: list[str]) -> None:
    assert to_options({"no-index": value}) == options


def test_cache_beside_the_environment_is_on_the_same_file_system() -> None:
    beside = Path(sys.prefix).parent / "no such folder" / "cache"

    assert not is_cache_on_other_file_system({"UV_CACHE_DIR": str(beside)})


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs another file system")
def test_cache_in_shared_memory_is_on_another_file_system() -> None:
    assert is_cache_on_other_file_system({"UV_CACHE_DIR": "/dev/shm/cache"})
