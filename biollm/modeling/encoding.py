"""Text and sequences into token ids, with the number of residues behind each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biollm.modeling.vocabulary import DomainVocabulary, load_tokenizer

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """One text without special tokens. ids, residues: (T,) int64; residues is 0 for tokens that are not of the domain."""

    ids: IntArray
    residues: IntArray


class Encoder:
    """The tokenizer of a model folder, for sequences by the fast path and for text by the ordinary one."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = load_tokenizer(folder)
        self.vocabulary = DomainVocabulary.load(folder)
        size = self.tokenizer.get_vocab_size()
        self.residues_by_id = self.vocabulary.residues_by_id(self.tokenizer) if self.vocabulary else np.zeros(size, dtype=np.int64)
        self.prefix, self.suffix = self._special_tokens()
        self.pad_id = self._id_of("[PAD]", "<pad>")
        self.mask_id = self._id_of("[MASK]", "<mask>")

    def encode_sequences(self, sequences: Sequence[str], names: Sequence[str] | None = None) -> list[Encoded]:
        """Domain sequences, in either case. Raises DataError naming the first that holds a foreign letter or is empty.

        With a tokenizer that has no domain vocabulary, they are read as the text that they are to it.
        """
        if self.vocabulary is None:
            return self.encode_text(sequences)
        return self._encode(self.vocabulary.to_private(list(sequences), list(names) if names is not None else None))

    def encode_text(self, texts: Sequence[str]) -> list[Encoded]:
        """Any text, as the stock tokenizer.json reads it."""
        return self._encode(list(texts))

    def is_sequence(self, text: str) -> bool:
        """Whether a whole string is one run that the tokenizer reads as a domain sequence."""
        return (
            self.vocabulary is not None
            and len(text) >= self.vocabulary.min_run
            and not text.upper().strip("".join(self.vocabulary.private_letters))
        )

    def with_special_tokens(self, ids: IntArray) -> IntArray:
        return np.concatenate([self.prefix, ids, self.suffix])

    def _encode(self, texts: list[str]) -> list[Encoded]:
        arrays = [np.asarray(e.ids, dtype=np.int64) for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        return [Encoded(ids, self.residues_by_id[ids]) for ids in arrays]

    def _special_tokens(self) -> tuple[IntArray, IntArray]:
        """What the tokenizer puts before and behind a text, learnt from how it treats one."""
        text = "a"
        bare, full = self.tokenizer.encode(text, add_special_tokens=False).ids, self.tokenizer.encode(text).ids
        start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
        return np.asarray(full[:start], dtype=np.int64), np.asarray(full[start + len(bare) :], dtype=np.int64)

    def _id_of(self, *names: str) -> int | None:
        found = (self.tokenizer.token_to_id(name) for name in names)
        return next((number for number in found if number is not None), None)


def pad(rows: Sequence[IntArray], value: int, multiple: int = 1) -> tuple[IntArray, IntArray]:
    """Rows of ids as one matrix padded on the right, and its attention mask. (B, T), (B, T)."""
    longest = max(len(row) for row in rows)
    width = -(-longest // multiple) * multiple
    ids = np.full((len(rows), width), value, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def pad_features(rows: Sequence[NDArray[np.float32]], width: int) -> NDArray[np.float32]:
    """Rows of (T, F) features as one (B, width, F) array; padding has zero features, which means no track."""
    features = np.zeros((len(rows), width, rows[0].shape[1]), dtype=np.float32)
    for i, row in enumerate(rows):
        features[i, : len(row)] = row
    return features
