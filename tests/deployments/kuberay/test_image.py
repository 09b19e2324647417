"""The Dockerfile, as far as it can be checked without Docker: what it copies, installs and sets."""

import fnmatch
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.helpers.kustomize import find, find_templates, render

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deployments" / "kuberay"
TEXT = (FOLDER / "Dockerfile").read_text()
INSTALL = (FOLDER / "install").read_text()


def read_instructions(name: str) -> list[str]:
    """List the arguments of an instruction, each joined to one line."""
    lines = re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


def read_copied() -> list[str]:
    return [source for each in read_instructions("COPY") for source in each.split()[:-1]]


def read_environment() -> dict[str, str]:
    pairs = [pair for each in read_instructions("ENV") for pair in each.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def test_everything_that_is_copied_exists_and_reaches_the_builder() -> None:
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    sent = [line[1:] for line in lines if line.startswith("!")]

    assert "*" in lines
    for source in read_copied():
        assert (ROOT / source).exists(), source
        assert any(source == each or fnmatch.fnmatch(source, f"{each}/*") for each in sent), source
    assert [each for each in sent if not (ROOT / each).exists()] == []


def test_packages_of_the_project_are_copied_with_what_builds_them() -> None:
    assert {"api", "deployments", "pyproject.toml", "README.md", "LICENSE"} <= set(read_copied())


@pytest.mark.parametrize("build", ["cpu", "gpu"])
def test_packages_come_from_locks_with_hashes(build: str) -> None:
    copied = read_copied()

    assert f"requirements/{build}.txt" in copied
    assert {"requirements/uv.txt", "requirements/torch-cpu.txt"} <= set(copied)
    assert INSTALL.count("--require-hashes") == 2  # uv itself, and what uv installs
    assert "setuptools==" in (ROOT / "requirements" / f"{build}.txt").read_text()


def test_image_and_pods_agree_on_user_and_home() -> None:
    environment = read_environment()
    pods = [
        template["spec"] for template in find_templates(find(render(FOLDER / "base"), "RayService"))
    ]

    assert read_instructions("USER") == ["1000:1000"]
    assert {pod["securityContext"]["runAsUser"] for pod in pods} == {1000}
    assert environment["HOME"] == environment["TRIPTYCH_HOME"]
    for pod in pods:
        mounts = pod["containers"][0]["volumeMounts"]
        assert environment["HOME"] in {mount["mountPath"] for mount in mounts}


def test_programs_are_where_the_installation_puts_them() -> None:
    environment = read_environment()

    assert "prefix=${PREFIX:-/opt/triptych}" in INSTALL
    assert environment["PATH"] == "/opt/triptych/venv/bin:$PATH"
    assert environment["TRIPTYCH_HAPROXY"] == "/opt/triptych/bin/haproxy"
    program = Path(environment["RAY_SERVE_HAPROXY_BINARY_PATH"])
    assert program.parent == Path("/opt/triptych/venv/bin")
    assert (
        program.name in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    )
    assert '"$prefix/bin/haproxy"' in INSTALL


def test_operator_finds_what_its_probes_run() -> None:
    (packages,) = [each for each in read_instructions("RUN") if "apt-get install" in each]

    assert {"bash", "wget", "ca-certificates"} <= set(packages.split())


@pytest.mark.parametrize("arguments", [[], ["all"], ["packages"], ["packages", "tpu"]])
def test_wrong_arguments_install_nothing(arguments: list[str], tmp_path: Path) -> None:
    ended = subprocess.run(
        [FOLDER / "install", *arguments],
        env={"PREFIX": str(tmp_path / "opt"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )

    assert ended.returncode == 2
    assert ended.stderr
    assert list(tmp_path.iterdir()) == []
