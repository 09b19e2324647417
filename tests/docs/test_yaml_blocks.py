"""Every YAML block of the documents is a list of applications that the check accepts."""

from typing import Any

import pytest
import yaml

from deployments.check.configuration import find_problems
from tests.helpers.markdown import DOCUMENTS, Block, read_blocks

BLOCKS = [block for document in DOCUMENTS for block in read_blocks(document)]
YAML_BLOCKS = [block for block in BLOCKS if block.language == "yaml"]
INGRESS = {"name": "ingress", "route_prefix": "/", "import_path": "deployments.app:ingress"}


def to_config(block: Block) -> dict[str, Any]:
    """Make a whole configuration of a block, with an ingress if it has none."""
    applications = yaml.safe_load(block.code)
    has_ingress = INGRESS["import_path"] in [each["import_path"] for each in applications]
    return {"applications": [*([] if has_ingress else [INGRESS]), *applications]}


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=str)
def test_block_is_accepted(block: Block) -> None:
    assert list(find_problems(to_config(block))) == []


def test_documents_have_yaml_blocks() -> None:
    assert len(YAML_BLOCKS) > 5


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_language_is_one_that_is_tested_or_plain_text(block: Block) -> None:
    assert block.language in ("sh", "python", "yaml", "text")
