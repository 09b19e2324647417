"""Requests → token ids, within the limits of the model and of the request."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from api.errors import InvalidRequestError
from api.ports.embeddings import EmbeddingRequest, ScoreRequest, Truncation
from deployments.engines.embedding.input_limits import (
    PORTION_CHARS,
    check_total,
    clip_chars,
    max_input_tokens,
    split_by_chars,
    to_param,
    too_long,
)
from deployments.engines.embedding.prompts import PASSAGE, QUERY, Prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Check = Callable[[], object]
"""Called before each portion is tokenized; raises if the request has been cancelled."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence."""

    ids: Sequence[int]
    types: Sequence[int] | None = None
    """Segment of each token, for models with token type ids: 0 is the query, 1 the document."""
    prompt_tokens: int = 0
    """Leading tokens of the prompt, special tokens included; some poolings leave them out."""

    def __len__(self) -> int:
        """How many tokens."""
        return len(self.ids)


class InputReader:
    """Tokenizes the inputs of one model. Blocks for long inputs; not thread-safe."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        max_tokens: int,
        prompts: Prompts,
        portion_chars: int = PORTION_CHARS,
    ) -> None:
        """Find the special tokens.

        Args:
            tokenizer: the model's.
            max_tokens: limit of one input, special tokens included.
            prompts: by input type.
            portion_chars: characters that are tokenized between two calls of `check`.
        """
        self._tokenizer: Any = tokenizer
        self._vocabulary_size = len(tokenizer)
        self._prompts = prompts
        self._portion_chars = portion_chars
        self.max_tokens = max_tokens
        self._prefix, self._suffix = self._find_special_tokens()
        self._prompt_ids: dict[str, list[int]] = {"": []}

    @property
    def smallest(self) -> Tokens:
        """The shortest valid input."""
        return Tokens([*self._prefix, *self._suffix] or [0])

    def read(self, request: EmbeddingRequest, check: Check = lambda: None) -> list[Tokens]:
        """Tokenize the inputs of a request.

        Raises:
            Exception: what `check` raises.
            ContextLengthExceededError: an input is too long for the model.
            InvalidRequestError: all inputs are too long together, or a token id is not in the
                vocabulary.
            UnsupportedParameterError: the model has no such input type.
        """
        prompt = self._prompts.get(request.input_type, request.input_type_name)
        return self._read(request.inputs, prompt, request.truncation, "input", check)

    def read_sides(self, request: ScoreRequest, check: Check = lambda: None) -> list[Tokens]:
        """Tokenize the queries, then the documents, each by itself; raises what `read` raises."""
        default = self._prompts.get(None)
        sides = ((QUERY, request.queries), (PASSAGE, request.documents))
        sequences: list[Tokens] = []
        for name, (input_type, texts) in zip(request.names, sides, strict=True):
            prompt = self._prompts.find(input_type) if request.is_search else None
            prompt = default if prompt is None else prompt
            sequences += self._read(texts, prompt, request.truncation, name, check)
        check_total(sequences, request.truncation, request.names[1])
        return sequences

    def _read(
        self,
        inputs: Sequence[str | tuple[int, ...]],
        prompt: str,
        truncation: Truncation,
        name: str,
        check: Check,
    ) -> list[Tokens]:
        prompt_ids = self._to_prompt_ids(prompt)
        prompt_tokens = len(self._prefix) + len(prompt_ids) if prompt_ids else 0
        params = [to_param(name, index, len(inputs)) for index in range(len(inputs))]
        sequences: list[Tokens] = []
        for portion in split_by_chars([len(each) for each in inputs], self._portion_chars):
            check()
            # Prompt and text are tokenized together: some tokenizers merge across the seam.
            texts = [
                prompt + clip_chars(each, index, self.max_tokens, truncation, params[index])
                for index, each in enumerate(inputs[portion], portion.start)
                if isinstance(each, str)
            ]
            ids_of_texts = self._encode(texts)
            for index, each in enumerate(inputs[portion], portion.start):
                is_text = isinstance(each, str)
                ids = next(ids_of_texts) if is_text else [*prompt_ids, *self._check_ids(each)]
                ids = self._truncate(ids, truncation, params[index], index)
                sequences.append(
                    Tokens([*self._prefix, *ids, *self._suffix], prompt_tokens=prompt_tokens)
                )
            check_total(sequences, truncation, name)
        return sequences

    def _truncate(
        self, ids: list[int], truncation: Truncation, param: str, index: int
    ) -> list[int]:
        count = len(self._prefix) + len(ids) + len(self._suffix)
        limit = max_input_tokens(truncation, self.max_tokens)
        if count <= limit:
            return ids
        if not truncation.is_wanted:
            raise too_long(index, count, self.max_tokens, param)
        return ids[: max(0, len(ids) - (count - limit))]

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
        if max(ids) >= self._vocabulary_size:
            raise InvalidRequestError.value(
                "input", f"this model's token ids end at {self._vocabulary_size - 1}"
            )
        checked: tuple[int, ...] = ids
        return checked

    def _to_prompt_ids(self, prompt: str) -> list[int]:
        if prompt not in self._prompt_ids:
            self._prompt_ids[prompt] = next(self._encode([prompt]))
        return self._prompt_ids[prompt]

    def _find_special_tokens(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text, such as [CLS] and [SEP]."""
        whole: list[int] = self._tokenizer("a")["input_ids"]
        bare = next(self._encode(["a"]))
        start = whole.index(bare[0])
        return whole[:start], whole[start + len(bare) :]


class PairReader:
    """Tokenizes query and document as one sequence, for cross-encoders. Blocks; not thread-safe."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        max_tokens: int,
        prompt: str = "",
        portion_chars: int = PORTION_CHARS,
    ) -> None:
        """Tokenize the smallest input.

        Args:
            tokenizer: the model's.
            max_tokens: limit of one pair, special tokens included.
            prompt: precedes each query.
            portion_chars: characters that are tokenized between two calls of `check`.
        """
        self._tokenizer: Any = tokenizer
        self._prompt = prompt
        self._portion_chars = portion_chars
        self._special_tokens = int(tokenizer.num_special_tokens_to_add(pair=True))
        self.max_tokens = max_tokens
        # Computed once, because each call reconfigures the tokenizer, which belongs to one thread.
        self.smallest = self._encode(["a"], ["a"], Truncation())[0]
        """The shortest valid input."""

    def read(self, request: ScoreRequest, check: Check = lambda: None) -> list[Tokens]:
        """Tokenize one sequence per document; raises what `InputReader.read` raises."""
        truncation, names = request.truncation, request.names
        queries = self._clip(request.queries, truncation, names[0])
        documents = self._clip(request.documents, truncation, names[1])
        if len(queries) == 1:
            queries *= len(documents)
        sizes = [len(query) + len(each) for query, each in zip(queries, documents, strict=True)]
        sequences: list[Tokens] = []
        for portion in split_by_chars(sizes, self._portion_chars):
            check()
            sequences += self._encode(queries[portion], documents[portion], truncation)
            for index, each in enumerate(sequences[portion.start :], portion.start):
                if len(each) > self.max_tokens:
                    param = to_param(names[1], index, len(documents))
                    raise too_long(index, len(each), self.max_tokens, param)
            check_total(sequences, truncation, names[1])
        return sequences

    def _clip(self, texts: Sequence[str], truncation: Truncation, name: str) -> list[str]:
        return [
            clip_chars(each, index, self.max_tokens, truncation, to_param(name, index, len(texts)))
            for index, each in enumerate(texts)
        ]

    def _encode(
        self, queries: list[str], documents: list[str], truncation: Truncation
    ) -> list[Tokens]:
        # Below the number of special tokens, the tokenizer does not truncate at all.
        limit = max(max_input_tokens(truncation, self.max_tokens), self._special_tokens)
        encoded = self._tokenizer(
            [self._prompt + query for query in queries],
            documents,
            # The strategy of sentence-transformers.
            truncation="longest_first" if truncation.is_wanted else False,
            max_length=limit if truncation.is_wanted else None,
            verbose=False,
        )
        types = encoded.get("token_type_ids") or [None] * len(documents)
        return [Tokens(*each) for each in zip(encoded["input_ids"], types, strict=True)]
