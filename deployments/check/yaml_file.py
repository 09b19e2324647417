"""Reads a YAML file, and finds the duplicate keys that PyYAML silently accepts."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import yaml


def read_yaml(content: bytes) -> tuple[Any, list[str]]:
    """Return the content, and a line for each key that stands more than once in one mapping.

    Raises:
        yaml.YAMLError: the content is not YAML.
        RecursionError: the content is nested too deeply.
    """
    loader = yaml.SafeLoader(content)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        # Before construction, which merges `<<` into a mapping and so hides its own keys.
        duplicates = list(_find_duplicates(node))
        return loader.construct_document(node), duplicates
    finally:
        loader.dispose()


def _find_duplicates(root: yaml.Node) -> Iterator[str]:
    """Yield keys that stand twice in one mapping; PyYAML keeps the last value."""
    seen: set[int] = set()
    open_nodes = [root]
    while open_nodes:
        node = open_nodes.pop()
        if id(node) in seen:  # an alias; it may even be part of itself
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            counts = Counter(key.value for key in keys)
            lines = {key.value: key.start_mark.line + 1 for key in keys}
            for name, count in counts.items():
                if count > 1:
                    yield f"{name}: is set {count} times in one mapping, last in line {lines[name]}"
            open_nodes.extend(value for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            open_nodes.extend(node.value)
