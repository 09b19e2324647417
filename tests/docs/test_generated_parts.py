"""The generated parts of the documents are what `scripts/docs` would write now."""

from typing import ClassVar, Literal

import pytest
from pydantic import BaseModel, Field

from deployments.config.diffusion import DiffusionArgs
from deployments.config.embedding import EmbeddingArgs
from deployments.config.ingress import IngressArgs
from deployments.config.ledger import LedgerArgs
from deployments.config.llm import LlmArgs
from scripts.documentation.configuration_table import to_table, walk_fields
from scripts.documentation.main import main
from scripts.documentation.markers import find_names, replace_parts
from tests.helpers.markdown import ROOT

MODELS = (IngressArgs, LlmArgs, EmbeddingArgs, DiffusionArgs, LedgerArgs)


class Inner(BaseModel):
    folder: str = Field(description="a folder")


class Outer(BaseModel):
    live_keys: ClassVar = frozenset({"mode", "inner", "items"})

    mode: Literal["a", "b"] = Field("a", description="a|b")
    size: int = Field(65_536, ge=1, le=100_000, description="a size")
    inner: Inner | None = Field(None, description="a mapping")
    by_name: dict[str, Inner] = Field(default_factory=dict, description="by name")
    items: tuple[Inner, ...] = Field((), description="a list")


def test_generated_parts_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, f"run scripts/docs:\n{capsys.readouterr().out}"


@pytest.mark.parametrize("model", MODELS)
def test_every_argument_block_has_a_table(model: type[BaseModel]) -> None:
    names = find_names((ROOT / "docs" / "configuration.md").read_text())

    assert f"{model.__module__}:{model.__qualname__}" in names


@pytest.mark.parametrize("model", MODELS)
def test_every_key_has_a_description(model: type[BaseModel]) -> None:
    assert [path for path, field in walk_fields(model) if not field.description] == []


def test_table_has_a_row_for_each_key_of_nested_models() -> None:
    assert list(to_table(Outer))[2:] == [
        "| `mode` | `a`, `b` | `a` | ✓ | a\\|b |",
        "| `size` | integer ≥ 1, ≤ 100_000 | `65_536` |  | a size |",
        "| `inner` | mapping | `null` | ✓ | a mapping |",
        "| `inner.folder` | text | **required** | ✓ | a folder |",
        "| `by_name` | mapping of mapping | `{}` |  | by name |",
        "| `by_name.*.folder` | text | **required** |  | a folder |",
        "| `items` | list of mapping | `[]` | ✓ | a list |",
        "| `items[].folder` | text | **required** | ✓ | a folder |",
    ]


def test_only_text_between_markers_is_replaced() -> None:
    text = "a\n<!-- begin: x -->\nold\n<!-- end -->\nb\n"

    assert replace_parts(text, lambda name: [name, "new"]) == (
        "a\n<!-- begin: x -->\nx\nnew\n<!-- end -->\nb\n"
    )
