"""Corpus records as documents: ids with special tokens, the residues behind each, and tracks.

Legend: T tokens of a document, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch.utils.data import Dataset

from biollm.core.errors import DataError
from biollm.core.seeding import generator
from biollm.modeling.channels import FusionSpec
from biollm.modeling.corpus import ROW, TrackTable, part_of
from biollm.modeling.encoding import Encoder, IntArray
from biollm.modeling.tracks import RecordTracks


@dataclass(frozen=True)
class Example:
    """One document. ids: (T,); residues: (T,), the bases, residues or bytes that each token stands for, 0 for special tokens;
    special: (T,), true for tokens put around the document; pool: ids that may stand where one of its tokens stood; sequence: its letters,
    if it is a sequence; name: what errors call it.

    spec: of the fusion, if the model is fused; tracks: None for a document without; tracked: (T,), the residues of the sequence behind
    each token, where these are not `residues`.
    """

    ids: IntArray
    residues: IntArray
    special: NDArray[np.bool_]
    pool: IntArray
    sequence: str = ""
    name: str = ""
    spec: FusionSpec | None = None
    tracks: RecordTracks | None = None
    tracked: IntArray | None = None

    @property
    def features(self) -> NDArray[np.float32] | None:
        """(T, F) of a document of a fused model. Made when asked for, so that memory holds those of a batch."""
        return None if self.spec is None else self.spec.features(self.sequence, self.tracks, self.track_residues, self.name)

    @property
    def track_residues(self) -> IntArray:
        """(T,), the residues of the sequence behind each token."""
        return self.residues if self.tracked is None else self.tracked


def open_tracks(corpus: Path, spec: FusionSpec | None) -> TrackTable | None:
    """The measured tracks of a corpus that a fused model reads; None if it reads none. Raises DataError naming one that is not there."""
    measured = spec.measured_names if spec else []
    return TrackTable(corpus, measured) if measured else None


def possible_ids(encoder: Encoder) -> IntArray:
    """Ids that may stand in a record of the corpus: the tokens of the domain, or without one all but special tokens."""
    return encoder.ordinary_ids if encoder.domain is None else np.flatnonzero(encoder.residues_by_id > 0)


def encode_corpus(records: pl.DataFrame, encoder: Encoder, spec: FusionSpec | None, tracks: TrackTable | None = None) -> list[Example]:
    """Records as documents, in their order; with tracks if the model is fused: what `open_tracks` gave.

    Records that the tokenizer has no domain for are read as text. Whether the model can read them whole is asked by `check_lengths`.
    Raises DataError naming a record that is no sequence.
    """
    sequences, names = records["sequence"].to_list(), records["id"].to_list()
    if encoder.domain is None:
        return encode_texts(sequences, encoder, names, spec)
    assert tracks is not None or spec is None or not spec.needs_measured, "the model's tracks were not opened"
    encoded = encoder.encode_sequences(sequences, names)
    rows = records[ROW].to_list() if tracks is not None else [0] * records.height
    pool = possible_ids(encoder)
    examples = []
    for name, sequence, tokens, row in zip(names, sequences, encoded, rows, strict=True):
        ids, residues, special = _with_special_tokens(tokens.ids, tokens.residues, encoder)
        own = None if spec is None else tracks[row] if tracks is not None else {}
        examples.append(Example(ids, residues, special, pool, sequence, str(name), spec, own))
    return examples


def encode_texts(
    texts: Sequence[str], encoder: Encoder, names: Sequence[str] | None = None, spec: FusionSpec | None = None
) -> list[Example]:
    """Texts as the stock tokenizer reads them; each token stands for the bytes of UTF-8 that it is the first to cover.

    To a fused model (spec) they are documents without tracks.
    """
    examples = []
    pool = encoder.ordinary_ids
    encodings = encoder.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    for name, text, encoding in zip(names or map(str, range(len(texts))), texts, encodings, strict=True):
        # a letter of several bytes may be cut between tokens, which then share its place in the text
        ends = np.maximum.accumulate(np.asarray([end for _, end in encoding.offsets], dtype=np.int64)) if encoding.ids else np.zeros(0, int)
        bytes_before = np.concatenate([[0], np.cumsum([len(letter.encode()) for letter in text])]) if not text.isascii() else None
        covered = ends if bytes_before is None else bytes_before[ends]
        ids, residues, special = _with_special_tokens(np.asarray(encoding.ids, dtype=np.int64), np.diff(covered, prepend=0), encoder)
        examples.append(Example(ids, residues, special, pool, name=str(name), spec=spec))
    return examples


def check_lengths(examples: Sequence[Example], capacity: int) -> None:
    """Refuse records that the model could only read cut. Raises DataError naming the record and the remedy."""
    for example in examples:
        if len(example.ids) > capacity:
            raise DataError(
                f"record {example.name} has {len(example.ids)} tokens, but "
                f"the model reads {capacity} and nothing is cut in silence; make the records shorter (genomes: lower ingest.window_bases)"
            )


def with_end(example: Example, end_id: int | None) -> Example:
    """The document with the token that ends texts behind it, unless a special token stands there already, or there is no such token."""
    if end_id is None or example.special[-1]:
        return example
    assert example.tracked is None, "only documents of one sequence are read to be written on"
    ids, residues, special = np.append(example.ids, end_id), np.append(example.residues, 0), np.append(example.special, True)
    return replace(example, ids=ids, residues=residues, special=special)


def divide_long(examples: Sequence[Example], capacity: int, *, end_once: bool = False) -> list[Example]:
    """The same tokens in documents of at most `capacity` tokens: a longer one becomes several, each with its own special tokens.

    end_once: the special tokens at its end stand behind the last part alone, since the document goes on behind the others.
    """
    return [part for example in examples for part in _divide(example, capacity, end_once)]


def _divide(example: Example, capacity: int, end_once: bool) -> list[Example]:
    if len(example.ids) <= capacity:
        return [example]
    body = np.flatnonzero(~example.special)
    first, last = int(body[0]), int(body[-1]) + 1
    end = len(example.ids) - last
    room = capacity - first - end
    assert room > 0, "a model that reads special tokens alone"
    ends = np.cumsum(example.residues)
    parts = []
    start = first
    while start < last:
        stop = start + room
        if stop < last and end_once:
            stop = min(stop + end, last - 1)  # the end stands behind a token of the document, or nothing would predict it
        stop = min(stop, last)
        kept = np.r_[0:first, start:stop, last : len(example.ids) if stop == last or not end_once else last]
        letters = slice(int(ends[start - 1]) if start else 0, int(ends[stop - 1]))
        parts.append(
            replace(
                example,
                ids=example.ids[kept],
                residues=example.residues[kept],
                special=example.special[kept],
                sequence=example.sequence[letters],
                tracks=None if example.tracks is None else part_of(example.tracks, letters),
            )
        )
        start = stop
    return parts


def _with_special_tokens(ids: IntArray, residues: IntArray, encoder: Encoder) -> tuple[IntArray, IntArray, NDArray[np.bool_]]:
    before, after = len(encoder.prefix), len(encoder.suffix)
    special = np.zeros(before + len(ids) + after, dtype=bool)
    special[:before] = special[len(special) - after :] = True
    padded = np.zeros(len(special), dtype=np.int64)
    padded[before : before + len(ids)] = residues
    return encoder.with_special_tokens(ids), padded, special


class TrainingPlan(Dataset[Example]):
    """All positions of a training run, over all epochs: position -> record of a seeded permutation of its epoch."""

    def __init__(self, examples: Sequence[Example], positions: int, seed: int) -> None:
        self._examples, self._positions, self._seed = examples, positions, seed
        self._permutations: dict[int, NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return self._positions

    def __getitem__(self, position: int) -> Example:
        epoch, within = divmod(position, len(self._examples))
        if epoch not in self._permutations:
            self._permutations = {epoch: generator(self._seed, "order", epoch).permutation(len(self._examples))}
        return self._examples[int(self._permutations[epoch][within])]

    def names(self, position: int) -> list[str]:
        """The name of the record of a position."""
        return [self[position].name]
