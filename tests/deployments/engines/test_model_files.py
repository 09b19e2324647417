import json
from pathlib import Path
from typing import Any

import pytest

from deployments.engines.model_files import find_risk

FOREIGN = "', which is code from elsewhere; remove it, or set 'trust: [code]' under args"


def write(folder: Path, name: str, content: Any = "") -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    "name", ["modeling.py", "unet/my_unet.py", "custom_generate/generate.py", "a/b/c.PY"]
)
def test_python_file_is_a_risk_unless_code_is_trusted(name: str, tmp_path: Path) -> None:
    write(tmp_path, name)

    risk = find_risk(tmp_path, ())

    assert risk is not None
    assert risk.startswith(f"'{name}' is Python code; remove it, or set 'trust: [code]'")
    assert find_risk(tmp_path, {"pickles", "unpinned"}) == risk
    assert find_risk(tmp_path, {"code"}) is None


def test_python_file_behind_a_link_to_a_folder_is_a_risk(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/unet.py")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "unet").symlink_to(tmp_path / "elsewhere")

    assert "'unet/unet.py' is Python code" in str(find_risk(tmp_path / "model", ()))


def test_link_to_the_folder_above_ends(tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(tmp_path)

    assert find_risk(tmp_path, ()) is None


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "model.pt",
        "consolidated.00.pth",
        "v1-5.CKPT",
        "1_Dense/pytorch_model.bin",
        "adapter.pkl",
        "head.pickle",
        "head.joblib",
    ],
)
def test_pickle_alone_is_a_risk_unless_pickles_are_trusted(name: str, tmp_path: Path) -> None:
    write(tmp_path, "model.safetensors" if "/" in name else "else/model.safetensors")
    write(tmp_path, name)

    risk = find_risk(tmp_path, ())

    assert risk is not None
    assert risk.startswith(f"'{name}' may be a pickle, which can run code when it is loaded")
    assert find_risk(tmp_path, {"code", "unpinned"}) == risk
    assert find_risk(tmp_path, {"pickles"}) is None


@pytest.mark.parametrize("sibling", ["model.safetensors", "model-00001-of-00002.safetensors"])
def test_pickle_beside_safetensors_is_not_read_and_no_risk(sibling: str, tmp_path: Path) -> None:
    write(tmp_path, "pytorch_model.bin")
    write(tmp_path, sibling)

    assert find_risk(tmp_path, ()) is None


def test_weights_of_openvino_are_no_pickle(tmp_path: Path) -> None:
    write(tmp_path, "openvino/model.bin")
    write(tmp_path, "openvino/model.xml")

    assert find_risk(tmp_path, ()) is None


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("modules.json", [{"type": "evil.Module"}], "evil.Module"),
        ("modules.json", [{"type": "subprocess.Popen"}], "subprocess.Popen"),
        ("2_R/router_config.json", {"types": {"r": "evil.Module"}}, "evil.Module"),
        ("model_index.json", {"_class_name": ["my_pipeline", "Mine"]}, "my_pipeline.Mine"),
        ("model_index.json", {"unet": ["my_unet", "Unet"]}, "my_unet.Unet"),
        ("model_index.json", {"unet": ["os", "system"]}, "os.system"),
        ("model_index.json", {"unet": ["../stable_diffusion", "A"]}, "../stable_diffusion.A"),
        ("config.json", {"auto_map": {"AutoModel": "evil/repo--m.Model"}}, "evil/repo--m.Model"),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": [None, "evil/repo--t.Fast"]}},
            "evil/repo--t.Fast",
        ),
        ("config.json", {"auto_map": ["evil/repo--t.Slow", None]}, "evil/repo--t.Slow"),
        (
            "preprocessor_config.json",
            {"auto_map": {"AutoProcessor": "evil/repo--p.P"}},
            "evil/repo--p.P",
        ),
        (
            "text_encoder/config.json",
            {"auto_map": {"AutoModel": "evil/repo--m.Model"}},
            "evil/repo--m.Model",
        ),
        (
            "config.json",
            {"text_config": {"auto_map": {"AutoConfig": "evil/repo--c.C"}}},
            "evil/repo--c.C",
        ),
        ("config.json", {"sub": [{"_attn_implementation": "evil/kernel"}]}, "evil/kernel"),
        ("config.json", {"_attn_implementation_internal": "evil/kernel@v1"}, "evil/kernel@v1"),
        ("config.json", {"attn_implementation": {"": "evil/kernel"}}, "evil/kernel"),
        (
            "sentence_bert_config.json",
            {"model_args": {"attn_implementation": "evil/kernel"}},
            "evil/kernel",
        ),
        ("config.json", {"experts_implementation": "evil/kernel"}, "evil/kernel"),
    ],
)
def test_configuration_that_names_foreign_code_is_a_risk(
    name: str, content: Any, named: str, tmp_path: Path
) -> None:
    write(tmp_path, name, content)

    assert f"'{name}' names '{named}{FOREIGN}" in str(find_risk(tmp_path, ()))
    assert find_risk(tmp_path, {"code"}) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("modules.json", [{"type": "sentence_transformers.models.Pooling"}, 1, {"type": 3}]),
        ("modules.json", {"type": "evil.Module"}),
        ("router_config.json", {"types": []}),
        ("router_config.json", []),
        (
            "model_index.json",
            {
                "_class_name": "StableDiffusionPipeline",
                "unet": ["diffusers", "UNet2DConditionModel"],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
                "image_encoder": [None, None],
                "sizes": [1, 2],
            },
        ),
        ("model_index.json", []),
        ("config.json", {"auto_map": {"AutoModel": "modeling.Model"}, "path": "a/b--c"}),
        ("config.json", {"attn_implementation": "flash_attention_2", "auto_map": 3}),
        ("config.json", "{no JSON"),
        ("config.json", "[" * 100_000),
        ("config.json", [[["a--b"]]]),
        ("notes.json", {"auto_map": {"AutoModel": "evil/repo--m.Model"}}),
    ],
)
def test_configuration_without_foreign_code_is_no_risk(
    name: str, content: Any, tmp_path: Path
) -> None:
    write(tmp_path, name, content)

    assert find_risk(tmp_path, ()) is None


def test_configuration_that_cannot_be_read_is_left_to_the_library(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to(tmp_path / "gone")

    assert find_risk(tmp_path, ()) is None


def test_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        find_risk(tmp_path / "gone", ())
