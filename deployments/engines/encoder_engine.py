"""sentence-transformers as the loader of an encoder: its pooling, prompts and normalisation.

Batches are ours: texts are sorted by length and packed by tokens, so that none is padded to the
longest of the whole request.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from api.backends import EmbeddingRequest, Embeddings
from api.errors import ContextLengthExceeded, InvalidRequest
from api.generation import Usage
from deployments.config import EncoderOptions
from deployments.engines.hardware import pick_device, pick_dtype
from deployments.engines.worker import Cancellation, Worker
from deployments.work import Work

if TYPE_CHECKING:
    import numpy as np


class EncoderEngine:
    """One encoder, computing in a thread of its own."""

    def __init__(self, model: str, options: EncoderOptions) -> None:
        """Load the model; takes seconds, and blocks.

        Args:
            model: a local folder.
            options: how to run it.

        Raises:
            Exception: whatever sentence-transformers raises when it cannot load the model.
        """
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize

        device = pick_device(options.device)
        self._model = SentenceTransformer(
            model,
            device=device,
            local_files_only=True,
            model_kwargs={"dtype": pick_dtype(options.dtype, device)},
        ).eval()
        self._tokenizer = self._model.tokenizer
        self._max_tokens = int(self._model.max_seq_length or self._tokenizer.model_max_length)
        self._max_batch_tokens = max(options.max_batch_tokens, self._max_tokens)
        self._is_normalized = isinstance(self._model[-1], Normalize)
        self._prefix, self._suffix = self._special_tokens()
        self._prompt = self._find_prompt(options.prompt_name)
        self._tokenizing = Worker("tokenizer")
        self._worker = Worker("encoder")

    @property
    def capacity(self) -> int:
        """Requests that it takes at once: one computes, and the next one is at hand."""
        return 2

    @property
    def details(self) -> Mapping[str, Any]:
        """What its card tells."""
        return {
            "dimensions": self._model.get_embedding_dimension(),
            "max_tokens": self._max_tokens,
        }

    async def embed(self, request: EmbeddingRequest, work: Work | None = None) -> Embeddings:
        """Embed all inputs. Cancelling this call stops the work after the current batch.

        Raises:
            ContextLengthExceeded: an input is too long for the model.
            InvalidRequest: a token id is not in the vocabulary.
            RateLimited, Overloaded: `work.begin` says so.
        """
        work = work or Work()
        sequences = await self._tokenizing.run(lambda _: self._tokenize(request.inputs))
        usage = Usage(prompt_tokens=sum(len(ids) for ids in sequences))
        await work.begin(usage.prompt_tokens)
        work.usage = usage
        vectors, dimensions = await self._worker.run(
            lambda cancellation: self._embed(sequences, cancellation)
        )
        return Embeddings(vectors, dimensions, usage)

    def _embed(
        self, sequences: Sequence[Sequence[int]], cancellation: Cancellation
    ) -> tuple[bytes, int]:
        import numpy as np

        vectors: np.ndarray | None = None  # (N, D) float32
        for batch in to_batches([len(ids) for ids in sequences], self._max_batch_tokens):
            cancellation.check()
            rows = self._forward([sequences[index] for index in batch])
            if vectors is None:
                vectors = np.empty((len(sequences), rows.shape[1]), np.dtype("<f4"))
            vectors[batch] = rows
        assert vectors is not None, "a request has at least one input"
        return vectors.tobytes(), vectors.shape[1]

    def _forward(self, sequences: Sequence[Sequence[int]]) -> "np.ndarray":
        """One pass over one batch: (B, D) float32."""
        import torch

        width = max(len(ids) for ids in sequences)
        pad_id = self._tokenizer.pad_token_id or 0
        ids = torch.tensor([[*ids, *[pad_id] * (width - len(ids))] for ids in sequences])  # (B, T)
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences])
        features = {"input_ids": ids, "attention_mask": mask}
        if self._prompt:
            # Poolings that leave the prompt out need to know where it ends.
            features["prompt_length"] = len(self._prefix) + len(self._prompt)
        features = {
            name: value.to(self._model.device) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        with torch.inference_mode():
            vectors = self._model(features)["sentence_embedding"].float()
            if self._is_normalized:
                # Once more in float32: bfloat16 leaves the norm up to 0.4 % off.
                vectors = torch.nn.functional.normalize(vectors, dim=1)
        array: np.ndarray = vectors.cpu().numpy()
        return array

    def _tokenize(self, inputs: Sequence[str | tuple[int, ...]]) -> list[list[int]]:
        """Token ids of every input, with the model's prompt and special tokens around them."""
        texts = [text for text in inputs if isinstance(text, str)]
        of_texts = iter(self._encode(texts) if texts else [])
        sequences = [
            [
                *self._prefix,
                *self._prompt,
                *(next(of_texts) if isinstance(item, str) else self._check_ids(item)),
                *self._suffix,
            ]
            for item in inputs
        ]
        for index, ids in enumerate(sequences):
            if len(ids) > self._max_tokens:
                raise ContextLengthExceeded(
                    f"Input {index} has {len(ids)} tokens, more than this model's maximum of "
                    f"{self._max_tokens}.",
                    param=f"input[{index}]" if len(sequences) > 1 else "input",
                )
        return sequences

    def _encode(self, texts: list[str]) -> list[list[int]]:
        encoded = self._tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _check_ids(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        if max(ids) >= len(self._tokenizer):
            raise InvalidRequest(
                f"Invalid value for 'input': this model's token ids end at "
                f"{len(self._tokenizer) - 1}.",
                param="input",
            )
        return ids

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text, such as [CLS] and [SEP]."""
        whole: list[int] = self._tokenizer("a")["input_ids"]
        bare = self._encode(["a"])[0]
        start = whole.index(bare[0])
        return whole[:start], whole[start + len(bare) :]

    def _find_prompt(self, name: str | None) -> list[int]:
        """Token ids of the prompt that goes before every text; none for most models."""
        name = name or self._model.default_prompt_name
        prompt = self._model.prompts[name] if name else ""
        return self._encode([prompt])[0] if prompt else []

    def check_health(self) -> None:
        """Prove that the model still computes, with the smallest input there is."""
        self._forward([[*self._prefix, *self._suffix] or [0]])

    def shut_down(self) -> None:
        """Take no more work."""
        self._tokenizing.shut_down()
        self._worker.shut_down()


def to_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Pack inputs, longest first, into batches of at most `max_tokens`, padding included."""
    batch: list[int] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and width * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        width = width if batch else lengths[index]
        batch.append(index)
    if batch:
        yield batch
