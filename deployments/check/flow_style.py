"""Writes a block of YAML on one line, as it may be pasted into a configuration."""

import math
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Repeats a value that stands twice, instead of an alias for it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_flow_style(**block: Any) -> str:
    """Return `key: value` in flow style, such as `ray_actor_options: {num_gpus: 8}`."""
    line = yaml.dump(
        block, Dumper=_Dumper, default_flow_style=True, width=math.inf, sort_keys=False
    )
    return line.strip().removeprefix("{").removesuffix("}")
