import asyncio
from pathlib import Path

import pytest

from api.errors import EngineError, ModelNotFoundError
from deployments.config.llm import AdapterArgs, LlmArgs
from deployments.models.lora_adapters import Adapters


def make_adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder


def args_for(tmp_path: Path, *ids: str) -> LlmArgs:
    adapters = tuple(AdapterArgs(id=name, source=str(tmp_path / name)) for name in ids)
    return LlmArgs(id="m", source="fake:", adapters=adapters, adapters_dir=str(tmp_path / "dir"))


class Loads:
    """Notes what is loaded."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, int, str]] = []

    async def __call__(self, name: str, number: int, folder: str) -> str:
        await asyncio.sleep(0)
        self.loaded.append((name, number, folder))
        return f"{name}#{number}"


async def test_each_adapter_is_loaded_once_under_a_number_of_its_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_adapter(tmp_path / name)
    loads = Loads()
    adapters = Adapters(args_for(tmp_path, "a", "b"), loads)

    got = [await adapters.get(name) for name in ("a", "b", "a")]

    assert got == ["a#1", "b#2", "a#1"]
    assert len(loads.loaded) == 2


async def test_requests_that_come_together_load_their_adapter_once(tmp_path: Path) -> None:
    make_adapter(tmp_path / "a")
    loads = Loads()
    adapters = Adapters(args_for(tmp_path, "a"), loads)

    got = await asyncio.gather(*(adapters.get("a") for _ in range(5)))

    assert got == ["a#1"] * 5
    assert len(loads.loaded) == 1


async def test_changed_files_are_another_adapter(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    adapters = Adapters(args_for(tmp_path, "a"), Loads())
    before = await adapters.get("a")
    (folder / "adapter_model.safetensors").write_text("new")

    assert (before, await adapters.get("a")) == ("a#1", "a#2")


async def test_replaced_source_is_another_adapter(tmp_path: Path) -> None:
    make_adapter(tmp_path / "a"), make_adapter(tmp_path / "other")
    adapters = Adapters(args_for(tmp_path, "a"), Loads())
    before = await adapters.get("a")
    moved = AdapterArgs(id="a", source=str(tmp_path / "other"))
    adapters.args = adapters.args.model_copy(update={"adapters": (moved,)})

    assert (before, await adapters.get("a")) == ("a#1", "a#2")


@pytest.mark.parametrize("name", ["x", "../a", "/etc/passwd", ""])
async def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    make_adapter(tmp_path / "a")
    loads = Loads()

    with pytest.raises(ModelNotFoundError):
        await Adapters(args_for(tmp_path, "a"), loads).get(name)
    assert loads.loaded == []


async def test_an_adapter_without_files_fails_alone(tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        await Adapters(args_for(tmp_path, "gone"), Loads()).get("gone")
