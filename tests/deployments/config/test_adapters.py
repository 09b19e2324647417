from pathlib import Path

from deployments.config.adapters import list_adapters
from deployments.config.llm import AdapterArgs, LlmArgs


def make_adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder


def args_for(tmp_path: Path, *ids: str) -> LlmArgs:
    adapters = tuple(AdapterArgs(id=name, source=str(tmp_path / name)) for name in ids)
    return LlmArgs(id="m", source="fake:", adapters=adapters, adapters_dir=str(tmp_path / "dir"))


def test_adapters_are_those_of_the_list_and_of_the_folder(tmp_path: Path) -> None:
    make_adapter(tmp_path / "dir" / "b")
    make_adapter(tmp_path / "dir" / "a")
    make_adapter(tmp_path / "dir" / "not a name")
    (tmp_path / "dir" / "no-adapter").mkdir()

    assert list_adapters(args_for(tmp_path, "z", "b")) == {
        "z": str(tmp_path / "z"),
        "b": str(tmp_path / "b"),
        "a": str(tmp_path / "dir" / "a"),
    }


def test_missing_folder_has_no_adapters(tmp_path: Path) -> None:
    assert list_adapters(args_for(tmp_path)) == {}
