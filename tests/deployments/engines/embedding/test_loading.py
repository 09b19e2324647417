"""What an encoder's folder may contain: neither pickles nor code of its own, unless trusted."""

import json
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from deployments.config.embedding import EncoderOptions
from deployments.engines.embedding.loading import load_encoder
from tests.helpers.tiny_encoders import make_encoder

OPTIONS = EncoderOptions(dtype="float32", device="cpu", pack_weights=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_encoder(tmp_path)
    return tmp_path / "model"


def load(folder: Path, trust: Collection[str] = ()) -> int:
    """Load an encoder and return the number of its modules."""
    from sentence_transformers import SentenceTransformer

    return len(load_encoder(SentenceTransformer, str(folder), OPTIONS, trust))


def test_pickled_weights_are_read_if_pickles_are_trusted(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    for weights in list(folder.rglob("model.safetensors")):
        torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
        weights.unlink()

    with pytest.raises(OSError, match="safetensors"):
        load(folder)
    assert load(folder, {"pickles"}) > 0


def test_code_of_the_model_runs_if_code_is_trusted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(folder.parent / "modules")  # where transformers copies such code
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
    monkeypatch.setattr("sys.path", list(sys.path))
    modules = json.loads((folder / "modules.json").read_text())
    added = {"idx": len(modules), "name": str(len(modules)), "path": "", "type": "mine.Marker"}
    (folder / "modules.json").write_text(json.dumps([*modules, added]))
    mark = folder.parent / "has_run"
    (folder / "mine.py").write_text(
        "from pathlib import Path\n"
        "from sentence_transformers.sentence_transformer.modules import Normalize\n"
        f"Path({str(mark)!r}).touch()\n"
        "class Marker(Normalize):\n"
        "    pass\n"
    )

    with pytest.raises(ValueError, match="third-party code"):
        load(folder)
    assert not mark.exists()

    assert load(folder, {"code"}) == len(modules) + 1
    assert mark.exists()
