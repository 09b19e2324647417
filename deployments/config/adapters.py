"""Finds the LoRA adapters of a language model: the configured ones, and those of its folder."""

import re
from pathlib import Path

from deployments.config.base import MODEL_ID
from deployments.config.llm import LlmArgs

_CONFIG_FILE = "adapter_config.json"


def list_adapters(args: LlmArgs) -> dict[str, str]:
    """Return name → source: the adapters of `adapters`, then those of `adapters_dir` by name.

    A folder that cannot be read counts as empty.
    """
    adapters = {adapter.id: adapter.source for adapter in args.adapters}
    if args.adapters_dir is not None:
        try:
            folders = sorted(Path(args.adapters_dir).expanduser().iterdir())
        except OSError:
            folders = []
        for folder in folders:
            if re.fullmatch(MODEL_ID, folder.name) and (folder / _CONFIG_FILE).is_file():
                adapters.setdefault(folder.name, str(folder))
    return adapters
