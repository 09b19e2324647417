"""Reads a configuration's file, and finds what YAML's own reader passes over."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import yaml


def read_yaml(content: bytes) -> tuple[Any, list[str]]:
    """What it says, and a line for each key that stands more than once in one mapping.

    Raises:
        yaml.YAMLError: it is no YAML.
        RecursionError: it is nested too deeply.
    """
    loader = yaml.SafeLoader(content)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        # First: what is read of a mapping with `<<` loses which keys were its own.
        twins = list(_find_twins(node))
        return loader.construct_document(node), twins
    finally:
        loader.dispose()


def _find_twins(root: yaml.Node) -> Iterator[str]:
    """Of two values for one key the reader takes the last, and does not say so."""
    seen: set[int] = set()
    open_nodes = [root]
    while open_nodes:
        node = open_nodes.pop()
        if id(node) in seen:  # an alias; it may even stand within what it means
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            counts = Counter(key.value for key in keys)
            lines = {key.value: key.start_mark.line + 1 for key in keys}
            for name, count in counts.items():
                if count > 1:
                    yield f"{name}: stands {count} times in one mapping, last in line {lines[name]}"
            open_nodes.extend(value for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            open_nodes.extend(node.value)
