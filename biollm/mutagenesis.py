"""In-silico mutagenesis: what a head's score makes of every single substitution in a sequence, as an array, a table and a heat map.

    from biollm import Predictor, mutagenesis
    found = mutagenesis.scan(Predictor.open("results/quickstart"), "ACGTACGT…", start=40, end=60)
    found.effects  # (positions, letters)

Zhou & Troyanskaya, Nature Methods 12:931 (2015). Tracks and covariates of the record stay as they are; tracks that follow from the
sequence follow the mutated one. Legend: P positions, A letters of the alphabet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import altair as alt
import numpy as np
import polars as pl
from scipy.special import logit

from biollm.classify.metrics import FloatArray, IntArray
from biollm.classify.saved import HeadCard
from biollm.core.errors import ConfigError, DataError, storage_error
from biollm.core.files import sync, write_text_atomic
from biollm.core.pictures import LETTER_PIXELS, SUBSTITUTIONS, substitution_map
from biollm.core.progress import progress
from biollm.embed.reading import GivenTracks
from biollm.predict import PredictJob, read_records
from biollm.predictor import Predictor, Records

TABLE, PAGE = "mutagenesis.parquet", "mutagenesis.html"
LETTERS = {"dna": "ACGT", "rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}
MOST_RECORDS = 10
_BATCH = 512
_TINY = 1e-12
# A page with more cells than this is slow to open.
_MOST_CELLS = 100_000
_WIDEST = 1100


@dataclass(frozen=True)
class Scan:
    """effects: (P, A) the score of each substitution minus that of the sequence; 0 where the letter is the sequence's own.

    score: of the sequence itself, in `unit`: the log-odds of `target` (classes), or the head's own value (quantities, ranks). Isotonic
    calibration is a step function, on which a single letter does nothing almost everywhere: such a head is asked before it.
    positions: (P,) from 0; letters: the A letters that were put in.
    """

    name: str
    sequence: str
    positions: IntArray
    letters: str
    score: float
    effects: FloatArray
    unit: str

    def table(self) -> pl.DataFrame:
        """The columns core.pictures.SUBSTITUTIONS, a row for each substitution; score: with it."""
        P, A = self.effects.shape
        own = [self.sequence[i] for i in self.positions]
        table = pl.DataFrame(
            {
                "id": [self.name] * (P * A),
                "position_0based": np.repeat(self.positions, A),
                "reference": np.repeat(own, A).tolist(),
                "letter": list(self.letters) * P,
                "effect": self.effects.ravel(),
                "score": self.score + self.effects.ravel(),
                "unit": [self.unit] * (P * A),
            },
            schema=SUBSTITUTIONS,
        )
        return table.filter(pl.col("letter") != pl.col("reference"))

    def chart(self) -> alt.LayerChart:
        """A Vega-Lite heat map of positions by letters."""
        width = int(np.clip(LETTER_PIXELS * len(self.positions), 200, _WIDEST))
        title = f"{self.name}: {self.unit} is {self.score:.3f}"
        return cast(alt.LayerChart, substitution_map(self.table()).properties(width=width, title=title))


def scan(
    predictor: Predictor,
    sequence: str,
    *,
    name: str = "sequence",
    start: int = 0,
    end: int | None = None,
    step: int = 1,
    target: str | None = None,
    table: pl.DataFrame | None = None,
    tracks: GivenTracks = None,
    batch_size: int = _BATCH,
) -> Scan:
    """The effect of every single substitution at the positions start, start + step, … before end (from 0; default: the whole sequence).

    target: the class (or label) whose log-odds are looked at; default: of two classes the second, of several the one that is predicted.
    table: one row with the covariates and tracks that the head reads; tracks: those that its model reads. batch_size: sequences scored at
    once; bounds memory and changes no effect by more than 1e-5.
    Raises ConfigError for text and SMILES, whose letters cannot be put in one by one, and for an unknown target; DataError for positions
    outside of the sequence.
    """
    letters = _letters(predictor)
    (whole,) = predictor.clean(Records.of([sequence], [name]))  # of a protein without the stop at its end
    end = len(whole) if end is None else end
    if not 0 <= start < end <= len(whole):
        raise DataError(
            f"record {name}: has {len(whole)} residues, but positions {start} to {end} were asked for; expected 0 to {len(whole)}"
        )
    if step < 1 or batch_size < 1:
        raise ConfigError(f"step is {step} and batch_size {batch_size}; expected 1 or more")
    positions = np.arange(start, end, step)
    one = Records([name], [whole], Records.of([whole], [name]).table if table is None else table, None if tracks is None else [tracks])
    column = _column(predictor.head.card, predictor.output(one), target)
    score = float(_scores(predictor, one, column)[0])
    planned = [(p, a) for p in range(len(positions)) for a in range(len(letters)) if whole[positions[p]] != letters[a]]
    effects = np.zeros((len(positions), len(letters)))
    for begin in progress(range(0, len(planned), batch_size), f"mutagenesis of {name}", unit="batch"):
        batch = planned[begin : begin + batch_size]
        names = [f"{name}, {letters[a]} at {positions[p] + 1}" for p, a in batch]
        mutants = _copies(one, [_put(whole, int(positions[p]), letters[a]) for p, a in batch], names)
        found = _scores(predictor, mutants, column) - score
        rows, columns = np.array(batch).T
        effects[rows, columns] = found
    return Scan(name, whole, positions, letters, score, effects, _unit(predictor.head.card, column))


@dataclass(frozen=True)
class ScanJob:
    """Some records of a file to scan, and the folder to write to. ids: which records; default: all, if they are few."""

    source: PredictJob
    ids: Sequence[str] = ()
    start: int = 0
    end: int | None = None
    step: int = 1
    target: str | None = None
    batch_size: int = _BATCH


def scan_file(predictor: Predictor, job: ScanJob) -> list[Scan]:
    """Scan records of a file, and write mutagenesis.parquet and mutagenesis.html (which needs no network) into a folder.

    Raises DataError for more records than a page can show, or ids that are not there, and what `scan` and `predict_file` raise.
    """
    chosen = list(_chosen(predictor, job))
    if (cells := sum(_cells(predictor, each, job) for each in chosen)) > _MOST_CELLS:
        raise DataError(
            f"{cells:,} substitutions are too many for a page ({_MOST_CELLS:,}); narrow them with --start, --end, --step or --id"
        )
    options = {"start": job.start, "end": job.end, "step": job.step, "target": job.target, "batch_size": job.batch_size}
    found = [
        scan(predictor, r.sequences[0], name=r.ids[0], table=r.table, tracks=r.tracks[0] if r.tracks else None, **options)  # type: ignore[arg-type]
        for r in chosen
    ]
    save(found, job.source.out)
    return found


def save(scans: Sequence[Scan], folder: Path) -> tuple[Path, Path]:
    """Write the table and the page of some scans into a folder, each whole or not at all. Gives their paths."""
    import vl_convert

    data, page = folder / TABLE, folder / PAGE
    chart = alt.vconcat(*(each.chart() for each in scans)).resolve_scale(color="independent")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staged = data.with_name(f".{TABLE}.tmp")
        pl.concat([each.table() for each in scans]).write_parquet(staged)
        sync(staged)
        staged.replace(data)
        write_text_atomic(page, str(vl_convert.vegalite_to_html(chart.to_json(), bundle=True)))
    except OSError as error:
        raise storage_error(error, folder) or error from None
    return data, page


def _chosen(predictor: Predictor, job: ScanJob) -> Iterator[Records]:
    """The records that are scanned, one by one."""
    wanted, count = set(job.ids), 0
    for records in read_records(predictor, job.source):
        for i, name in enumerate(records.ids):
            if job.ids and name not in wanted:
                continue
            wanted.discard(name)
            count += 1
            if count > MOST_RECORDS:
                raise DataError(f"{job.source.source}: holds more than {MOST_RECORDS} records to scan; name those that you want with --id")
            yield Records([name], [records.sequences[i]], records.table[i : i + 1], [records.tracks[i]] if records.tracks else None)
    if wanted:
        raise DataError(f"{job.source.source}: holds no record {', '.join(sorted(wanted))}; name others with --id")
    if not count:
        raise DataError(f"{job.source.source}: holds no record; give a file with records")


def _letters(predictor: Predictor) -> str:
    """What is put in. Raises ConfigError for sequences without an alphabet of residues."""
    if (letters := LETTERS.get(predictor.modality)) is None:
        raise ConfigError(
            f"mutagenesis needs an alphabet of residues, but the head reads {predictor.modality}; it is for {', '.join(LETTERS)}"
        )
    return letters


def _cells(predictor: Predictor, one: Records, job: ScanJob) -> int:
    """Positions by letters of a record's map, before anything is scored."""
    length = len(one.sequences[0].strip())
    end = length if job.end is None else min(job.end, length)
    return len(range(job.start, end, max(job.step, 1))) * len(_letters(predictor))


def _put(sequence: str, position: int, letter: str) -> str:
    return sequence[:position] + letter + sequence[position + 1 :]


def _copies(one: Records, sequences: list[str], names: list[str]) -> Records:
    """A record's tracks and covariates under other sequences."""
    table = one.table[np.zeros(len(sequences), dtype=np.int64)]
    return replace(one, ids=names, sequences=sequences, table=table, tracks=one.tracks * len(sequences) if one.tracks else None)


def _column(card: HeadCard, reference: FloatArray, target: str | None) -> int | None:
    """Which column of the head's output is looked at; None: it has one only."""
    if target is not None and target not in card.classes:
        raise ConfigError(f"target is '{target}'; the head '{card.row}' knows {', '.join(card.classes) or 'no classes, but a quantity'}")
    if reference.ndim == 1:
        return 1 if card.task == "binary" and target in (None, card.classes[1]) else 0 if card.task == "binary" else None
    return card.classes.index(target) if target is not None else int(reference[0].argmax())


def _scores(predictor: Predictor, records: Records, column: int | None) -> FloatArray:
    """(n,) what effects are differences of."""
    features, head = predictor.features(records, own_tracks=False), predictor.head
    if not _has_steps(head.card):
        return _score(head.card, head.output(features), column)
    assert head.card.calibration is not None
    output = head.uncalibrated(features)
    if head.card.calibration.of_probabilities:
        return _score(head.card, output, column)
    return (output if column == 1 else -output) if output.ndim == 1 else output[:, column or 0]


def _has_steps(card: HeadCard) -> bool:
    return card.calibration is not None and card.calibration.method == "isotonic"


def _score(card: HeadCard, output: FloatArray, column: int | None) -> FloatArray:
    """(n,) the log-odds of a class, or the value itself."""
    if column is None:
        return output
    if output.ndim == 1:
        log_odds = logit(np.clip(output, _TINY, 1 - _TINY))
        return np.asarray(log_odds if column == 1 else -log_odds)
    return np.asarray(logit(np.clip(output[:, column], _TINY, 1 - _TINY)))


def _unit(card: HeadCard, column: int | None) -> str:
    if column is None:
        return f"value of {card.labels[0]}"
    asked = card.classes[column] if card.task == "multilabel" else f"{card.labels[0]} = {card.classes[column]}"
    if not _has_steps(card):
        return f"log-odds of {asked}"
    assert card.calibration is not None
    return f"{'log-odds' if card.calibration.of_probabilities else 'distance from the border'} of {asked}, before calibration"
