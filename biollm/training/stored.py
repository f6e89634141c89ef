"""Documents that are tokenised once, and read where they lie on the disk: by every process of a run, and by a run that goes on.

A file is Arrow IPC with a document a row:

    name             what errors call it
    ids, residues    lists of a number per token (see examples.Example)
    before, behind   how many special tokens stand around it
    sequence, start, stop    of a fused model: its letters, and where its tracks lie in the table of the corpus (null without tracks)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biollm.modeling.channels import FusionSpec
from biollm.modeling.corpus import RowTracks, TrackTable
from biollm.modeling.encoding import IntArray
from biollm.training.examples import Example

_NUMBERS = pa.large_list(pa.int32())
_COLUMNS = {"name": pa.large_string(), "ids": _NUMBERS, "residues": _NUMBERS, "before": pa.int32(), "behind": pa.int32()}
_OF_FUSED_MODELS = {"sequence": pa.large_string(), "start": pa.int64(), "stop": pa.int64()}


def store(file: Path, parts: Iterable[Sequence[Example]], *, fused: bool) -> None:
    """Write documents, of which memory holds one part at a time. fused: with what a fused model reads of them."""
    schema = pa.schema(_COLUMNS | (_OF_FUSED_MODELS if fused else {}))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for part in parts:
            writer.write_batch(pa.RecordBatch.from_pydict(_columns(part), schema))


class StoredExamples(Sequence[Example]):
    """The documents of a file that `store` wrote. Memory holds their lengths, and those that are asked for."""

    def __init__(self, file: Path, pool: IntArray, spec: FusionSpec | None, tracks: TrackTable | None) -> None:
        """pool, spec: as in Example; tracks: the table that tracks lie in, as `examples.open_tracks` gave it."""
        self._pool, self._spec, self._tracks = pool, spec, tracks
        with pa.memory_map(str(file)) as source:
            reader = pa.ipc.open_file(source)
            self._parts = [_Part.of_batch(reader.get_batch(i)) for i in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(len(part.before) for part in self._parts)])
        counts = [np.diff(part.ends) for part in self._parts]
        self.token_counts: IntArray = np.concatenate([np.zeros(0, dtype=np.int64), *counts]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        place = range(len(self))[place]
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        part, row = self._parts[number], place - int(self._starts[number])
        tokens = slice(part.ends[row], part.ends[row + 1])
        ids, residues, name = part.ids[tokens].astype(np.int64), part.residues[tokens].astype(np.int64), part.of("name", row)
        special = np.zeros(len(ids), dtype=bool)
        special[: part.before[row]] = special[len(ids) - part.behind[row] :] = True
        if self._spec is None:
            return Example(ids, residues, special, self._pool, name=name)
        sequence, start, stop = (part.of(column, row) for column in _OF_FUSED_MODELS)
        tracks = None if start is None else {} if self._tracks is None else RowTracks(self._tracks, start, stop)
        return Example(ids, residues, special, self._pool, sequence, name, self._spec, tracks)


class _Part(NamedTuple):
    """A part of a file, its numbers as arrays over the memory map. ends: of the tokens of each document, behind a 0."""

    batch: pa.RecordBatch
    ends: NDArray[np.int64]
    ids: NDArray[np.int32]
    residues: NDArray[np.int32]
    before: NDArray[np.int32]
    behind: NDArray[np.int32]

    @classmethod
    def of_batch(cls, batch: pa.RecordBatch) -> _Part:
        ids, residues = batch.column("ids"), batch.column("residues")
        numbers = (ids.offsets, ids.values, residues.values, batch.column("before"), batch.column("behind"))
        return cls(batch, *(column.to_numpy() for column in numbers))

    def of(self, column: str, row: int) -> Any:
        return self.batch.column(column)[row].as_py()


def _columns(part: Sequence[Example]) -> dict[str, Any]:
    around, spans = [_special_tokens(example) for example in part], [_span(example) for example in part]
    return {
        "name": [example.name for example in part],
        "ids": _lists([example.ids for example in part]),
        "residues": _lists([example.residues for example in part]),
        "before": [before for before, _ in around],
        "behind": [behind for _, behind in around],
        "sequence": [example.sequence for example in part],
        "start": [start for start, _ in spans],
        "stop": [stop for _, stop in spans],
    }


def _lists(rows: Sequence[IntArray]) -> pa.LargeListArray:
    """A column of lists, several times as fast as pyarrow makes it of arrays."""
    ends = np.cumsum([0, *map(len, rows)])
    return pa.LargeListArray.from_arrays(ends.astype(np.int64), np.concatenate(rows).astype(np.int32))


def _special_tokens(example: Example) -> tuple[int, int]:
    """How many stand before and behind a document."""
    own = np.flatnonzero(~example.special)
    before, behind = int(own[0]), len(example.ids) - 1 - int(own[-1])
    assert before + len(own) + behind == len(example.ids), "special tokens stand around a document"
    return before, behind


def _span(example: Example) -> tuple[int | None, int | None]:
    """Where the tracks of a document lie in the table of the corpus; nowhere if all follow from its letters."""
    assert example.tracked is None, "only documents of one sequence are stored"
    if example.tracks is None:
        return None, None
    return (example.tracks.start, example.tracks.stop) if isinstance(example.tracks, RowTracks) else (0, 0)
