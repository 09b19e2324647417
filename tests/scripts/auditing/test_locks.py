import json
from pathlib import Path

import pytest

from scripts.auditing.locks import Pin, check_locks, read_lock

HASH, OTHER = "a" * 64, "b" * 64
GOOD = f"""# made by a tool
some-package==1.2.3 \\
    --hash=sha256:{HASH} \\
    --hash=sha256:{OTHER}
    # via another
Extra_Package[all]==2.0+cpu ; python_version < "3.13" \\
    --hash=sha256:{HASH}
"""


@pytest.fixture
def node_lock(tmp_path: Path) -> Path:
    path = tmp_path / "package-lock.json"
    path.write_text(json.dumps({"packages": {"": {}, "node_modules/a": {"integrity": "sha512-x"}}}))
    return path


def write(folder: Path, text: str) -> Path:
    path = folder / "lock.txt"
    path.write_text(text)
    return path


def problems(folder: Path, text: str, node_lock: Path) -> list[str]:
    return [each.problem for each in check_locks([write(folder, text)], node_lock).findings]


def test_lock_is_read_with_its_hashes(tmp_path: Path) -> None:
    assert read_lock(write(tmp_path, GOOD)) == [
        Pin("some-package", "1.2.3", (HASH, OTHER)),
        Pin("extra-package", "2.0+cpu", (HASH,)),
    ]


def test_lock_with_a_hash_for_every_package_is_accepted(tmp_path: Path, node_lock: Path) -> None:
    assert problems(tmp_path, GOOD, node_lock) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a==1\n", "a has no SHA-256 hash"),
        ("a==1 --hash=md5:00\n", "a has no SHA-256 hash"),
        ("a==1 \\\n    --hash=sha256:12\n", "a has no SHA-256 hash"),
        (f"a>=1 --hash=sha256:{HASH}\n", "'a>=1 --hash=sha256:"),
        (f"a==1.* --hash=sha256:{HASH}\n", "'a==1.* --hash"),
        ("--extra-index-url https://x\n", "'--extra-index-url https://x' is no package"),
        ("-e .\n", "'-e .' is no package"),
        (f"a @ https://x/a.whl --hash=sha256:{HASH}\n", "'a @ https://x/a.whl"),
    ],
)
def test_line_that_is_not_pinned_by_version_and_hash_is_found(
    text: str, problem: str, tmp_path: Path, node_lock: Path
) -> None:
    found = problems(tmp_path, GOOD + text, node_lock)

    assert len(found) == 1
    assert found[0].startswith(problem)


def test_node_package_without_a_hash_is_found(tmp_path: Path, node_lock: Path) -> None:
    packages = {
        "": {},
        "node_modules/a": {"version": "1"},
        "node_modules/b": {"integrity": "sha1-"},
    }
    node_lock.write_text(json.dumps({"packages": packages}))

    assert problems(tmp_path, GOOD, node_lock) == [
        "node_modules/a has no SHA-512 hash",
        "node_modules/b has no SHA-512 hash",
    ]
