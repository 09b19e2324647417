"""Runs this environment's uv where pip would look: at pip's indexes, with pip's certificates.

uv reads nothing of pip's configuration (pip.conf, PIP_…), and a company's mirror is often named
there only. What is set for uv itself (UV_…, SSL_CERT_FILE) stays as it is.
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
"""Of pip's configuration; what a later one says counts."""
NAMES = {
    "index-url": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
    "extra-index-url": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
    "find-links": ("UV_FIND_LINKS",),
    "trusted-host": ("UV_INSECURE_HOST",),
    "proxy": ("ALL_PROXY",),
    "cert": ("SSL_CERT_FILE",),
    "client-cert": ("SSL_CLIENT_CERT",),
}
"""uv's names for pip's options: the one to set, unless that or the one it replaced is set."""


def main() -> None:
    listed = subprocess.run([*PIP, "config", "list"], stdout=subprocess.PIPE, text=True, check=True)
    settings = read_settings(listed.stdout.splitlines())
    environment = {**to_environment(settings, os.environ), **os.environ}
    system_certificates(environment)
    if is_elsewhere(environment):
        environment.setdefault("UV_LINK_MODE", "copy")
    os.execve(UV, [str(UV), *sys.argv[1:], *to_options(settings)], environment)


def read_settings(listed: Iterable[str]) -> dict[str, str]:
    """What `pip install` goes by, from the lines of `pip config list`."""
    sections: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listed:
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in sections and value not in ("", "''"):
            sections[section][option] = ast.literal_eval(value)
    return {option: value for section in sections.values() for option, value in section.items()}


def to_environment(settings: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Translate pip's settings to uv's variables, but for what the given environment says."""
    variables = {}
    for option, names in NAMES.items():
        if option in settings and not any(name in given for name in names):
            separator = "," if option == "find-links" else " "
            places = [os.path.expanduser(place) for place in settings[option].split()]
            variables[names[0]] = separator.join(places)
    if "UV_INDEX" in variables:
        # pip takes the best of any index. uv calls that unsafe; the locks' hashes make it safe.
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return variables


def to_options(settings: Mapping[str, str]) -> list[str]:
    """What uv has no variable for."""
    return ["--no-index"] if settings.get("no-index") in ("1", "true", "yes", "on") else []


def system_certificates(environment: dict[str, str]) -> None:
    """Let uv trust what the machine trusts, as pip does since 24.2; uv has its own list."""
    if ssl.create_default_context().get_ca_certs():  # uv refuses to start where there are none
        environment.setdefault("UV_SYSTEM_CERTS", "true")


def is_elsewhere(environment: Mapping[str, str]) -> bool:
    """Whether uv's cache is on another file system, where it tries links first and complains."""
    said = subprocess.run([UV, "cache", "dir"], env=environment, capture_output=True, text=True)
    cache = Path(said.stdout.strip())
    nearest = next(place for place in (cache, *cache.parents) if place.exists())
    return nearest.stat().st_dev != Path(sys.prefix).stat().st_dev


if __name__ == "__main__":
    main()
