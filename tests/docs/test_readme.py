"""The README is short; README and documents together cover routes, options and variables."""

import re
import subprocess

import pytest
from starlette.routing import Route

from deployments.cli import keys
from tests.helpers.fakes import FakeAdministration, FakeImageStore, build_app
from tests.helpers.markdown import DOCUMENTS, ROOT

_MAX_README_BYTES = 8 * 1024
_PLACEHOLDER = re.compile(r"\{[^{}]*\}|\b(?:NAME|ID)\b")


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= _MAX_README_BYTES


def test_every_route_is_documented() -> None:
    app = build_app(administration=FakeAdministration(), image_store=FakeImageStore())
    text = "\n".join(document.read_text() for document in DOCUMENTS)

    routes = {_PLACEHOLDER.sub("*", route.path) for route in app.routes if isinstance(route, Route)}
    documented = _PLACEHOLDER.sub("*", text)
    assert [route for route in routes if f"{route}`" not in documented] == []


def test_every_variable_of_the_code_is_documented() -> None:
    found = subprocess.run(
        ["git", "grep", "-hoE", r"TRIPTYCH_[A-Z_]*[A-Z]", "--", "api", "deployments", "scripts"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    configuration = (ROOT / "docs" / "configuration.md").read_text()

    documented = re.findall(r"^\| `(TRIPTYCH_\w+)` \|", configuration, re.MULTILINE)
    assert sorted(documented) == sorted(set(found.stdout.split()))


def test_every_option_of_a_key_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        keys.main(["create", "--help"])
    options = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    text = (ROOT / "docs" / "keys-and-limits.md").read_text()

    assert len(options) > 10
    assert [option for option in options if option not in text] == []
