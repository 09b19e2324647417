"""Reads the names of vLLM's engine options from its source: importing vLLM takes seconds."""

import ast
import importlib.util
from pathlib import Path


def find_vllm_options() -> frozenset[str] | None:
    """Return the fields of vLLM's `AsyncEngineArgs`; None if vLLM is not installed.

    Source: vLLM 0.32 engine/arg_utils.py.
    """
    package = importlib.util.find_spec("vllm")
    if package is None or package.origin is None:
        return None
    tree = ast.parse(Path(package.origin).with_name("engine").joinpath("arg_utils.py").read_text())
    return frozenset(
        field.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name in ("EngineArgs", "AsyncEngineArgs")
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    )
