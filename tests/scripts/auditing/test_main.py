"""The audit of what is installed here, and of the locks in this checkout."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.auditing import main as program
from scripts.auditing.findings import Check, Finding, to_table
from scripts.auditing.locks import Pin
from scripts.auditing.sbom import to_sbom


def test_this_checkout_has_no_findings(capsys: pytest.CaptureFixture[str]) -> None:
    status = program.main([])

    assert (status, capsys.readouterr().err) == (0, "")


def test_every_lock_is_installed_with_its_hashes() -> None:
    command = ["git", "grep", "-hE", r"pip.*install.* -r( |\"|$)", "--", "scripts", "deployments"]
    found = subprocess.run(command, cwd=program.ROOT, capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()

    assert len(lines) >= 4
    assert [line for line in lines if "--require-hashes" not in line] == []


def test_finding_is_in_the_table_and_in_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Check("hashes", 1, (Finding("cpu.txt", "a has no SHA-256 hash"),))
    monkeypatch.setattr(program, "check_locks", lambda *_: found)

    assert program.main([]) == 1
    assert "  cpu.txt: a has no SHA-256 hash\n" in capsys.readouterr().out


def test_table_has_a_line_for_each_check() -> None:
    table = to_table([Check("hashes", 12, ()), Check("licences", 3, (Finding("a", "b"),))])

    assert [line.split() for line in table.splitlines()] == [
        ["check", "checked", "findings"],
        ["hashes", "12", "0"],
        ["licences", "3", "1"],
        ["a:", "b"],
    ]


def test_bill_of_materials_has_every_package_of_the_lock(tmp_path: Path) -> None:
    program.main(["--sbom", str(tmp_path / "sbom.json")])

    sbom = json.loads((tmp_path / "sbom.json").read_text())
    components = {each["name"]: each for each in sbom["components"]}
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    assert components["starlette"]["purl"].startswith("pkg:pypi/starlette@")
    assert {"torch", "ray", "transformers", "diffusers"} <= components.keys()


def test_bill_of_materials_depends_on_its_packages_only() -> None:
    pins = [Pin("b", "2+cpu", ("00",)), Pin("a", "1", ("11", "22"))]
    expected: list[dict[str, Any]] = [
        {
            "type": "library",
            "bom-ref": "pkg:pypi/a@1",
            "name": "a",
            "version": "1",
            "purl": "pkg:pypi/a@1",
            "licenses": [{"expression": "MIT"}],
        },
        {
            "type": "library",
            "bom-ref": "pkg:pypi/b@2%2Bcpu",
            "name": "b",
            "version": "2+cpu",
            "purl": "pkg:pypi/b@2%2Bcpu",
            "hashes": [{"alg": "SHA-256", "content": "00"}],
        },
    ]

    sbom = to_sbom("1.0", pins, {"a": "MIT"})

    assert sbom["components"] == expected
    assert to_sbom("1.0", reversed(pins), {"a": "MIT"}) == sbom
    assert to_sbom("1.0", pins[:1], {})["serialNumber"] != sbom["serialNumber"]
