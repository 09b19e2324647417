"""What goes before the texts of an encoder: prompts by the names that clients use for them."""

from collections.abc import Mapping

from api.errors import UnsupportedParameterError

_ALIASES = (
    ("query", "search_query", "retrieval.query"),
    ("passage", "document", "search_document", "retrieval.passage", "corpus"),
)
"""Names of one thing. Cohere's, Jina's, and those that models on the Hub have."""

QUERY, PASSAGE = "query", "passage"


class Prompts:
    """The prompts of one model: the operator's first, then its own."""

    def __init__(
        self, configured: Mapping[str, str], own: Mapping[str, str | None], default: str | None
    ) -> None:
        """Use `default` where a request says nothing.

        Raises:
            KeyError: `default` is the name of no prompt.
        """
        # sentence-transformers gives every model empty prompts for queries and documents.
        has_own = any(own.values())
        known = {name: prompt or "" for name, prompt in own.items() if has_own}
        self._known = {**known, **configured}
        self._default = {**own, **configured}[default] or "" if default else ""

    @property
    def names(self) -> list[str]:
        """What requests may choose."""
        return sorted(self._known)

    def get(self, input_type: str | None, name: str = "input_type") -> str:
        """The prompt for texts of that type, which the client calls `name`.

        Raises:
            UnsupportedParameterError: the model tells texts of that type from no others.
        """
        if input_type is None:
            return self._default
        if (prompt := self.find(input_type)) is None:
            raise UnsupportedParameterError(
                f"Unsupported value for '{name}': this model has "
                f"{', '.join(map(repr, self.names)) or 'none'}.",
                param=name,
            )
        return prompt

    def find(self, input_type: str) -> str | None:
        """The prompt of that name, or of another name for the same."""
        names = next((names for names in _ALIASES if input_type in names), ())
        return next(
            (self._known[name] for name in (input_type, *names) if name in self._known), None
        )
