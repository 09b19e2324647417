"""What an encoder reads: requests → token ids, within the model's limits and the request's."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from api.errors import ContextLengthExceededError, InvalidRequestError
from api.ports.embeddings import EmbeddingRequest, ScoreRequest, Truncation
from deployments.engines.embedding.prompts import PASSAGE, QUERY, Prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Check = Callable[[], object]
"""Called between two portions; raises if nobody waits for the rest."""

_PORTION_CHARS = 250_000
"""Cut into tokens at once, which cannot be stopped and takes some 150 MB meanwhile."""

_MOST_CHARS_A_TOKEN = 64
"""Hardly a text has more on the whole: what is longer is too long without being cut into tokens."""
_BOUND_CHARS = 32_768
"""What is shorter is always cut: blobs and rows of blanks may be one token."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence."""

    ids: Sequence[int]
    types: Sequence[int] | None = None
    """Which of two texts each belongs to, for models that want to know."""
    prompt_tokens: int = 0
    """How many at its beginning are not the text's; poolings may leave them out."""

    def __len__(self) -> int:
        """How many tokens."""
        return len(self.ids)


class InputReader:
    """Reads texts and token ids for one model; to be used in a thread, for it may take long."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", max_tokens: int, prompts: Prompts
    ) -> None:
        """Read with the tokenizer of a model that takes so many tokens."""
        self._tokenizer: Any = tokenizer
        self._size = len(tokenizer)
        self._prompts = prompts
        self.max_tokens = max_tokens
        self._prefix, self._suffix = self._special_tokens()
        self._prompt_ids: dict[str, list[int]] = {"": []}

    @property
    def smallest(self) -> Tokens:
        """The smallest input that there is."""
        return Tokens([*self._prefix, *self._suffix] or [0])

    def read(self, request: EmbeddingRequest, check: Check = lambda: None) -> list[Tokens]:
        """The inputs of a request.

        Raises:
            Exception: what `check` raises.
            ContextLengthExceededError: an input is too long for the model.
            InvalidRequestError: all are too long together, or a token id is not in the vocabulary.
            UnsupportedParameterError: the model has no such input type.
        """
        prompt = self._prompts.get(request.input_type, request.input_type_name)
        return self._read(request.inputs, prompt, request.cut, "input", check)

    def read_sides(self, request: ScoreRequest, check: Check = lambda: None) -> list[Tokens]:
        """Queries, then documents, each by itself; raises what `read` raises."""
        default = self._prompts.get(None)
        sides = ((QUERY, request.queries), (PASSAGE, request.documents))
        sequences: list[Tokens] = []
        for name, (input_type, texts) in zip(request.names, sides, strict=True):
            prompt = self._prompts.find(input_type) if request.is_search else None
            prompt = default if prompt is None else prompt
            sequences += self._read(texts, prompt, request.cut, name, check)
        check_total(sequences, request.cut, request.names[1])
        return sequences

    def _read(
        self,
        inputs: Sequence[str | tuple[int, ...]],
        prompt: str,
        cut: Truncation,
        name: str,
        check: Check,
    ) -> list[Tokens]:
        prompt_ids = self._to_prompt_ids(prompt)
        prompt_tokens = len(self._prefix) + len(prompt_ids) if prompt_ids else 0
        params = [to_param(name, index, len(inputs)) for index in range(len(inputs))]
        sequences: list[Tokens] = []
        for portion in to_portions([len(each) for each in inputs]):
            check()
            # With its prompt before it is cut into tokens: some tokenizers join the two.
            texts = [
                prompt + to_bounded(each, index, self.max_tokens, cut, params[index])
                for index, each in enumerate(inputs[portion], portion.start)
                if isinstance(each, str)
            ]
            of_texts = self._encode(texts)
            for index, each in enumerate(inputs[portion], portion.start):
                is_text = isinstance(each, str)
                ids = next(of_texts) if is_text else [*prompt_ids, *self._check_ids(each)]
                ids = self._fit(ids, cut, params[index], index)
                sequences.append(
                    Tokens([*self._prefix, *ids, *self._suffix], prompt_tokens=prompt_tokens)
                )
            check_total(sequences, cut, name)
        return sequences

    def _fit(self, ids: list[int], cut: Truncation, param: str, index: int) -> list[int]:
        count = len(self._prefix) + len(ids) + len(self._suffix)
        most = to_most(cut, self.max_tokens)
        if count <= most:
            return ids
        if not cut.is_wanted:
            raise too_long(index, count, self.max_tokens, param)
        return ids[: max(0, len(ids) - (count - most))]

    def _encode(self, texts: list[str]) -> Iterator[list[int]]:
        if not texts:
            return iter(())
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            truncation=False,
            verbose=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return iter(ids)

    def _check_ids(self, ids: Any) -> tuple[int, ...]:
        if max(ids) >= self._size:
            raise InvalidRequestError(
                f"Invalid value for 'input': this model's token ids end at {self._size - 1}.",
                param="input",
            )
        checked: tuple[int, ...] = ids
        return checked

    def _to_prompt_ids(self, prompt: str) -> list[int]:
        if prompt not in self._prompt_ids:
            self._prompt_ids[prompt] = next(self._encode([prompt]))
        return self._prompt_ids[prompt]

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text, such as [CLS] and [SEP]."""
        whole: list[int] = self._tokenizer("a")["input_ids"]
        bare = next(self._encode(["a"]))
        start = whole.index(bare[0])
        return whole[:start], whole[start + len(bare) :]


class PairReader:
    """Reads a query and a document as one sequence, as cross-encoders want them."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", max_tokens: int, prompt: str = ""
    ) -> None:
        """Read with the tokenizer of a model that takes so many tokens, and a prompt with them."""
        self._tokenizer: Any = tokenizer
        self._prompt = prompt
        self._special_tokens = int(tokenizer.num_special_tokens_to_add(pair=True))
        self.max_tokens = max_tokens
        # Once: with each call the tokenizer is set up anew, and it belongs to one thread.
        self.smallest = self._encode(["a"], ["a"], Truncation())[0]
        """The smallest input that there is."""

    def read(self, request: ScoreRequest, check: Check = lambda: None) -> list[Tokens]:
        """One sequence a document; raises what `InputReader.read` raises."""
        cut, names = request.cut, request.names
        queries = self._bound(request.queries, cut, names[0])
        documents = self._bound(request.documents, cut, names[1])
        if len(queries) == 1:
            queries *= len(documents)
        sizes = [len(query) + len(each) for query, each in zip(queries, documents, strict=True)]
        sequences: list[Tokens] = []
        for portion in to_portions(sizes):
            check()
            sequences += self._encode(queries[portion], documents[portion], cut)
            for index, each in enumerate(sequences[portion.start :], portion.start):
                if len(each) > self.max_tokens:
                    param = to_param(names[1], index, len(documents))
                    raise too_long(index, len(each), self.max_tokens, param)
            check_total(sequences, cut, names[1])
        return sequences

    def _bound(self, texts: Sequence[str], cut: Truncation, name: str) -> list[str]:
        return [
            to_bounded(each, index, self.max_tokens, cut, to_param(name, index, len(texts)))
            for index, each in enumerate(texts)
        ]

    def _encode(self, queries: list[str], documents: list[str], cut: Truncation) -> list[Tokens]:
        # With less than its own tokens take, the tokenizer would not cut at all.
        most = max(to_most(cut, self.max_tokens), self._special_tokens)
        encoded = self._tokenizer(
            [self._prompt + query for query in queries],
            documents,
            # As sentence-transformers cuts.
            truncation="longest_first" if cut.is_wanted else False,
            max_length=most if cut.is_wanted else None,
            verbose=False,
        )
        types = encoded.get("token_type_ids") or [None] * len(documents)
        return [Tokens(*each) for each in zip(encoded["input_ids"], types, strict=True)]


def to_portions(sizes: Sequence[int]) -> Iterator[slice]:
    """Neighbours that have so many characters together, or one that has more by itself."""
    first = chars = 0
    for place, size in enumerate(sizes):
        if place > first and chars + size > _PORTION_CHARS:
            yield slice(first, place)
            first, chars = place, 0
        chars += size
    if sizes:
        yield slice(first, len(sizes))


def to_bounded(text: str, index: int, max_tokens: int, cut: Truncation, param: str) -> str:
    """As much of a text as can matter.

    Raises:
        ContextLengthExceededError: it has more, and is not to be cut.
    """
    most = max(max_tokens * _MOST_CHARS_A_TOKEN, _BOUND_CHARS)
    if len(text) > most and not cut.is_wanted:
        raise too_long(index, None, max_tokens, param)
    return text[:most]


def to_most(cut: Truncation, max_tokens: int) -> int:
    """How many tokens one input may have."""
    return min(cut.max_tokens or max_tokens, max_tokens) if cut.is_wanted else max_tokens


def to_param(name: str, index: int, count: int) -> str:
    """What an error says is at fault."""
    return f"{name}[{index}]" if count > 1 else name


def too_long(
    index: int, count: int | None, max_tokens: int, param: str
) -> ContextLengthExceededError:
    """The error for one input, whose tokens may not have been counted."""
    has = "more tokens" if count is None else f"{count} tokens, more"
    return ContextLengthExceededError(
        f"Input {index} has {has} than this model's maximum of {max_tokens}; with "
        "'truncate': true it is cut.",
        param=param,
    )


def check_total(sequences: Sequence[Tokens], cut: Truncation, param: str) -> None:
    """Refuse a request whose inputs are too long together.

    Raises:
        InvalidRequestError: they are.
    """
    total = sum(map(len, sequences))
    if cut.max_total_tokens is not None and total > cut.max_total_tokens:
        raise InvalidRequestError(
            f"Invalid value for '{param}': all inputs together have {total} tokens, more than the "
            f"limit of {cut.max_total_tokens} of one request.",
            param=param,
        )
