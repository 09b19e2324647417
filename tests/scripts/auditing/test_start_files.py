from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from scripts.auditing.start_files import check_start_files, to_record_hash

NAME, CODE = "distutils-precedence.pth", b"import os\n"


def install(folder: Path, package: str, file: str, code: bytes = CODE) -> PathDistribution:
    """Install a package of one file."""
    (folder / file).write_bytes(code)
    info = folder / f"{package}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    (info / "RECORD").write_text(f"{file},{to_record_hash(code)},{len(code)}\n")
    return PathDistribution(info)


def problems(folder: Path, *distributions: PathDistribution) -> list[tuple[str, str]]:
    found = check_start_files(folder, distributions)
    return [(each.subject, each.problem) for each in found.findings]


def test_known_file_as_it_was_installed_is_accepted(tmp_path: Path) -> None:
    assert problems(tmp_path, install(tmp_path, "setuptools", NAME)) == []


def test_unknown_file_is_found(tmp_path: Path) -> None:
    distribution = install(tmp_path, "litellm", "litellm_init.pth")

    assert problems(tmp_path, distribution) == [
        ("litellm_init.pth", "runs when Python starts, and is not known")
    ]


def test_changed_file_is_found(tmp_path: Path) -> None:
    distribution = install(tmp_path, "setuptools", NAME)
    (tmp_path / NAME).write_bytes(CODE + b"import evil\n")

    assert problems(tmp_path, distribution) == [(NAME, "is not as setuptools installed it")]


def test_file_of_another_package_or_of_none_is_found(tmp_path: Path) -> None:
    assert problems(tmp_path, install(tmp_path, "evil", NAME)) == [
        (NAME, "belongs to evil instead of setuptools")
    ]
    assert problems(tmp_path) == [(NAME, "belongs to no package instead of setuptools")]


@pytest.mark.parametrize("name", ["sitecustomize.py", "usercustomize.py", "sitecustomize"])
def test_customization_of_python_is_found(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()

    assert problems(tmp_path) == [(name, "runs when Python starts, and is not known")]
