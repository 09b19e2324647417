"""A parser for models that do not call tools by themselves.

A forced call is JSON of its schema, which every model can be constrained to.
"""

FORCED_ONLY = "triptych_forced"
"""The parser's name in vLLM."""


def register_forced_only() -> None:
    """Register the parser with vLLM, unless it is registered already."""
    from vllm.tool_parsers.abstract_tool_parser import ToolParser, ToolParserManager

    if FORCED_ONLY in ToolParserManager.tool_parsers:
        return

    class ForcedOnly(ToolParser):
        """The base class parses forced calls."""

    ToolParserManager.register_module(FORCED_ONLY, module=ForcedOnly)
