"""Prompts that precede the texts of an encoder, by the names that clients use for them."""

from collections.abc import Mapping

from api.errors import UnsupportedParameterError

_ALIASES = (
    ("query", "search_query", "retrieval.query"),
    ("passage", "document", "search_document", "retrieval.passage", "corpus"),
)
"""Synonyms: Cohere's, Jina's, and those of models on the Hub."""

QUERY, PASSAGE = "query", "passage"


class Prompts:
    """The prompts of one model; configured ones override the model's own."""

    def __init__(
        self, configured: Mapping[str, str], own: Mapping[str, str | None], default: str | None
    ) -> None:
        """Merge the prompts.

        Args:
            configured: name → prompt, from the configuration.
            own: name → prompt, from the model's files.
            default: name of the prompt for requests without an input type.

        Raises:
            KeyError: no prompt is named `default`.
        """
        # sentence-transformers gives every model empty prompts for queries and documents.
        has_own = any(own.values())
        known = {name: prompt or "" for name, prompt in own.items() if has_own}
        self._known = {**known, **configured}
        self._default = {**own, **configured}[default] or "" if default else ""

    @property
    def names(self) -> list[str]:
        """Input types that requests may choose, sorted."""
        return sorted(self._known)

    def get(self, input_type: str | None, param: str = "input_type") -> str:
        """Return the prompt of an input type, or the default if it is None.

        Args:
            input_type: what the client sent.
            param: the client's name for the parameter; errors name it.

        Raises:
            UnsupportedParameterError: the model has no prompt of that name.
        """
        if input_type is None:
            return self._default
        if (prompt := self.find(input_type)) is None:
            raise UnsupportedParameterError(
                f"Unsupported value for '{param}': this model has "
                f"{', '.join(map(repr, self.names)) or 'none'}.",
                param=param,
            )
        return prompt

    def find(self, input_type: str) -> str | None:
        """Return the prompt of that name or of a synonym."""
        synonyms = next((names for names in _ALIASES if input_type in names), ())
        return next(
            (self._known[name] for name in (input_type, *synonyms) if name in self._known), None
        )
