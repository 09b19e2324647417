"""Runs this environment's uv with pip's configuration: its indexes, proxy and certificates.

uv does not read pip's configuration (pip.conf, PIP_…), which is often the only place that names a
company's mirror. Variables for uv itself (UV_…, SSL_CERT_FILE) take precedence.
"""

import ast
import os
import ssl
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
UV = Path(sys.executable).with_name("uv")
SECTIONS = ("global", "install", ":env:")
"""Sections of pip's configuration; later sections override earlier ones."""
NAMES = {
    "index-url": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "extra-index-url": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "find-links": ("UV_FIND_LINKS",),
    "trusted-host": ("UV_INSECURE_HOST",),
    "proxy": ("ALL_PROXY",),
    "cert": ("SSL_CERT_FILE",),
    "client-cert": ("SSL_CLIENT_CERT",),
}
"""uv's variables for pip's options: the first is set, unless any of them is set already."""


def main() -> None:
    listed = subprocess.run([*PIP, "config", "list"], stdout=subprocess.PIPE, text=True, check=True)
    settings = read_settings(listed.stdout.splitlines())
    environment = {**to_environment(settings, os.environ), **os.environ}
    use_system_certificates(environment)
    if is_cache_on_other_file_system(environment):
        environment.setdefault("UV_LINK_MODE", "copy")
    os.execve(UV, [str(UV), *sys.argv[1:], *to_options(settings)], environment)


def read_settings(listed: Iterable[str]) -> dict[str, str]:
    """The options of `pip install`, from the lines of `pip config list`."""
    sections: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listed:
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in sections and value not in ("", "''"):
            sections[section][option] = ast.literal_eval(value)
    return {option: value for section in sections.values() for option, value in section.items()}


def to_environment(settings: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Translate pip's settings to uv's variables, except for those that `given` sets."""
    variables = {}
    for option, names in NAMES.items():
        if option in settings and not any(name in given for name in names):
            separator = "," if option == "find-links" else " "
            values = [os.path.expanduser(value) for value in settings[option].split()]
            variables[names[0]] = separator.join(values)
    if "UV_INDEX" in variables:
        # pip takes the best version of all indexes. uv calls that unsafe; the hashes make it safe.
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return variables


def to_options(settings: Mapping[str, str]) -> list[str]:
    """Options for the settings that uv has no variable for."""
    return ["--no-index"] if settings.get("no-index") in ("1", "true", "yes", "on") else []


def use_system_certificates(environment: dict[str, str]) -> None:
    """Let uv use the system's certificates, as pip does since 24.2, instead of uv's own list."""
    if ssl.create_default_context().get_ca_certs():  # without any, uv refuses to start
        environment.setdefault("UV_SYSTEM_CERTS", "true")


def is_cache_on_other_file_system(environment: Mapping[str, str]) -> bool:
    """Whether uv's cache is on another file system, where uv's hard links fail with a warning."""
    shown = subprocess.run([UV, "cache", "dir"], env=environment, capture_output=True, text=True)
    cache = Path(shown.stdout.strip())
    nearest = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return nearest.stat().st_dev != Path(sys.prefix).stat().st_dev


if __name__ == "__main__":
    main()
