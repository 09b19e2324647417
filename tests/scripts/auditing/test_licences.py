from email.message import Message
from importlib.metadata import Distribution
from typing import Any

import pytest

from scripts.auditing.licences import EXCEPTIONS, check_licences, is_allowed, read_licence


class FakeDistribution(Distribution):
    """A package with the given metadata."""

    def __init__(self, name: str = "some-package", *classifiers: str, **fields: str) -> None:
        self._fields = {"Name": name, **{key.replace("_", "-"): fields[key] for key in fields}}
        self._classifiers = classifiers

    @property
    def metadata(self) -> Any:
        message = Message()
        for name, value in self._fields.items():
            message[name] = value
        for classifier in self._classifiers:
            message["Classifier"] = f"License :: OSI Approved :: {classifier}"
        return message

    def read_text(self, filename: str) -> str | None:
        return None

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("MIT AND (GPL-3.0-only OR AGPL-3.0-only)", False),
        ("GPL-3.0-only OR MIT AND AGPL-3.0-only", False),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("Apache 2.0", False),
        ("(MIT", False),
        ("MIT)", False),
        ("", False),
    ],
)
def test_expression_is_allowed_if_one_choice_is(expression: str, expected: bool) -> None:
    assert is_allowed(expression) == expected


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (FakeDistribution(License_Expression="MIT"), "MIT"),
        (FakeDistribution("a", "MIT License", License_Expression="ISC"), "ISC"),
        (FakeDistribution("a", "BSD License"), "BSD-3-Clause"),
        (FakeDistribution("a", "MIT License", "Apache Software License"), "MIT OR Apache-2.0"),
        (FakeDistribution("a", "GNU Affero General Public License v3"), None),
        (FakeDistribution(License="Apache 2.0 License"), "Apache-2.0"),
        (FakeDistribution(License="apache"), "Apache-2.0"),
        (FakeDistribution(License="3-Clause BSD License"), "BSD-3-Clause"),
        (FakeDistribution(License="MIT License\n\nCopyright (c) 2022"), "MIT"),
        (FakeDistribution(License="MPL-2.0 AND MIT"), "MPL-2.0 AND MIT"),
    ],
)
def test_licence_is_read_from_wherever_it_stands(
    distribution: Distribution, expected: str | None
) -> None:
    licence = read_licence(distribution)

    assert licence is not None
    assert is_allowed(licence) == (expected is not None)
    assert expected in (licence, None)


@pytest.mark.parametrize(
    ("distribution", "problem"),
    [
        (FakeDistribution(License_Expression="AGPL-3.0-only"), "is not among the allowed ones"),
        (FakeDistribution(), "names no licence"),
    ],
)
def test_licence_that_is_not_allowed_is_a_finding(distribution: Distribution, problem: str) -> None:
    (finding,) = check_licences([distribution]).findings

    assert problem in finding.problem


def test_exception_is_no_finding() -> None:
    name = next(iter(EXCEPTIONS))

    assert check_licences([FakeDistribution(name, License="GPLv2")]).findings == ()
