"""Text and sequences into token ids, with the number of residues behind each token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biollm.core.alphabets import ALPHABETS, DOUBLE_STRANDED
from biollm.core.errors import DataError
from biollm.core.files import read_json
from biollm.modeling.atom_pieces import AtomPieceEncoder, reads_atom_pieces
from biollm.modeling.fastpath import ForeignLetterError, SequenceEncoder
from biollm.modeling.sequence_tables import tables_from_merged
from biollm.modeling.vocabulary import TOKENIZER, Domain, DomainVocabulary, load_tokenizer

IntArray = NDArray[np.int64]
# A string of IUPAC letters is a sequence if more of them than this share are single bases (or N): then no protein is taken for DNA.
_LEAST_BASES = 0.75


@dataclass(frozen=True)
class Encoded:
    """One text without special tokens. ids, residues: (T,) int64; residues is 0 for tokens that are not of the domain."""

    ids: IntArray
    residues: IntArray


class Encoder:
    """The tokenizer of a model folder, for sequences by the fast path and for text by the ordinary one.

    modality: which domain's sequences `encode_sequences` reads; default: the first that reads sequences.
    """

    def __init__(self, folder: Path, modality: str | None = None) -> None:
        self._folder = folder
        self.tokenizer = load_tokenizer(folder)
        self.vocabulary = DomainVocabulary.load(folder)
        self.domain = self.vocabulary.sequence_domain(modality) if self.vocabulary else None
        size = self.tokenizer.get_vocab_size()
        self.residues_by_id = self.vocabulary.residues_by_id(self.tokenizer) if self.vocabulary else np.zeros(size, dtype=np.int64)
        self.prefix, self.suffix = self._special_tokens()
        self.pad_id = self._id_of("[PAD]", "<pad>")
        self.mask_id = self._id_of("[MASK]", "<mask>")
        self.end_id = self._declared_end()

    def encode_sequences(self, sequences: Sequence[str], names: Sequence[str] | None = None) -> list[Encoded]:
        """Domain sequences, in either case. Raises DataError naming the first that holds a foreign letter or is empty.

        With a tokenizer that has no domain of sequences, they are read as the text that they are to it.
        """
        if self.domain is None:
            return self.encode_text(sequences)
        for position, sequence in enumerate(sequences):
            if not sequence:
                raise DataError(f"sequence {names[position] if names else f'number {position}'} is empty; remove it")
        try:
            return [Encoded(ids, self.residues_by_id[ids]) for ids in self._fast.encode(sequences)]
        except ForeignLetterError as error:
            name = names[error.sequence] if names else f"number {error.sequence}"
            raise DataError(
                f"sequence {name} holds {error.letter!r} at position {error.position + 1}; {self.domain.modality} sequences hold "
                f"{''.join(self.domain.units)}{' in either case' if self.domain.folds_case else ''}"
            ) from None

    def encode_text(self, texts: Sequence[str]) -> list[Encoded]:
        """Any text, as the stock tokenizer.json reads it."""
        return self._encode(list(texts))

    def is_sequence(self, text: str) -> bool:
        """Whether a whole string is one run of residues, in either case, long enough to be read as a sequence. DNA and RNA may be spelt
        in each other's letters, and up to a quarter of it may be IUPAC codes of several bases."""
        domain = self.domain
        if domain is None or domain.min_run is None or len(text) < domain.min_run:
            return False
        letters, spelt = "".join(domain.units), text.upper() if domain.folds_case else text
        if not spelt.strip(letters):
            return True
        if domain.modality not in DOUBLE_STRANDED or ALPHABETS[domain.modality].foreign(text) is not None:
            return False
        return sum(spelt.count(letter) for letter in {*letters, "T", "U"}) > _LEAST_BASES * len(spelt)

    def with_special_tokens(self, ids: IntArray) -> IntArray:
        return np.concatenate([self.prefix, ids, self.suffix])

    @cached_property
    def ordinary_ids(self) -> IntArray:
        """All ids but those of special tokens."""
        special = [i for i, token in self.tokenizer.get_added_tokens_decoder().items() if token.special]
        return np.setdiff1d(np.arange(self.tokenizer.get_vocab_size()), special)

    @cached_property
    def _fast(self) -> SequenceEncoder:
        assert self.domain is not None
        return sequence_encoder(read_json(self._folder / TOKENIZER), self.domain)

    def _encode(self, texts: list[str]) -> list[Encoded]:
        arrays = [np.asarray(e.ids, dtype=np.int64) for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        return [Encoded(ids, self.residues_by_id[ids]) for ids in arrays]

    def _special_tokens(self) -> tuple[IntArray, IntArray]:
        """What the tokenizer puts before and behind a text, learnt from how it treats one."""
        text = "a"
        bare, full = self.tokenizer.encode(text, add_special_tokens=False).ids, self.tokenizer.encode(text).ids
        start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
        return np.asarray(full[:start], dtype=np.int64), np.asarray(full[start + len(bare) :], dtype=np.int64)

    def _declared_end(self) -> int | None:
        """The end-of-text token that the tokenizer's settings declare."""
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            settings = self._folder / name
            declared = read_json(settings).get("eos_token") if settings.is_file() else None
            if token := declared.get("content") if isinstance(declared, dict) else declared:
                return self.tokenizer.token_to_id(token)
        return None

    def _id_of(self, *names: str) -> int | None:
        found = (self.tokenizer.token_to_id(name) for name in names)
        return next((number for number in found if number is not None), None)


def sequence_encoder(merged: dict[str, Any], domain: Domain) -> SequenceEncoder:
    """The fast path for the sequences of one domain of a merged tokenizer.json: the ids of the stock tokenizer, many times as fast."""
    tables = tables_from_merged(merged, domain.model_units, domain.ids, piece_residues=domain.piece_residues)
    if domain.piece_residues is not None and reads_atom_pieces(merged, domain):
        return AtomPieceEncoder(tables, domain.piece_residues)
    return SequenceEncoder(tables, fold_case=domain.folds_case)


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


def by_length(lengths: Sequence[int], tokens: int, size: int | None = None) -> Iterator[list[int]]:
    """Indices of rows in batches of like lengths, the longest first, so that little is padding: each at most `tokens` with its padding
    (or one row), or where `size` is given so many rows."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) == size if size else (len(batch) + 1) * lengths[batch[0]] > tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad_features(rows: Sequence[NDArray[np.float32]], width: int) -> NDArray[np.float32]:
    """Rows of (T, F) features as one (B, width, F) array; padding has zero features, which means no track."""
    features = np.zeros((len(rows), width, rows[0].shape[1]), dtype=np.float32)
    for i, row in enumerate(rows):
        features[i, : len(row)] = row
    return features
