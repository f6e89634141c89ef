"""Methylation as letters of the sequence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pydantic import ValidationError

from biollm.core.alphabets import ALPHABETS, reverse_complement
from biollm.core.job import Job
from biollm.corpus.columns import RECORDS
from biollm.ingest.config import Config, CytosineLetters
from biollm.ingest.cytosines import write_cytosines
from biollm.ingest.stage import run

NAN = float("nan")
SEQUENCES = pa.array(["ACGT", "CCG", "GC"], type=pa.large_string())
LEVELS = [
    np.float32([NAN, 0.9, 0.5, NAN, NAN, 0.1, 0.2, 1.0, NAN]),  # no value at the first C of the second, nor at the last
    np.float32([NAN] * 4 + [0.7] + [NAN] * 4),
]


def test_methylated_cytosines_of_either_strand_have_letters_of_their_own() -> None:
    found = write_cytosines(SEQUENCES, LEVELS, CytosineLetters(written="methylation", tracks=["CG", "CHG"]))
    assert found.to_pylist() == ["AMWT", "MCG", "WC"]
    assert found.type == SEQUENCES.type


def test_bisulfite_reads_unmethylated_cytosines_of_its_own_strand_as_t() -> None:
    found = write_cytosines(SEQUENCES, LEVELS, CytosineLetters(written="bisulfite", tracks=["CG", "CHG"], threshold=0.8))
    assert found.to_pylist() == ["ACGT", "TTG", "GC"], "what has no value stays"


def test_methylated_dna_has_a_reverse_complement_and_refuses_nothing_that_dna_holds() -> None:
    assert reverse_complement("AMWCN") == "NGMWT"
    alphabet = ALPHABETS["methylated_dna"]
    assert alphabet.read("amwurn") == "AMWTNN"
    assert alphabet.foreign("ACGTMWURYSKBDHV") is None
    assert alphabet.foreign("ACE") == 2


@pytest.mark.parametrize("written", ["methylation", "bisulfite"])
def test_windows_of_both_strands_are_written_as_they_are_read(
    tmp_path: Path, dna: Callable[[int, int], str], fasta_text: Callable[..., str], written: str
) -> None:
    sequence = dna(4000, 5)
    (tmp_path / "g.fa").write_text(fasta_text({"c": sequence}))
    places = [i for i, base in enumerate(sequence) if base in "CG"]
    (tmp_path / "s.bedgraph").write_text("".join(f"c\t{i}\t{i + 1}\t{float(i % 2)}\n" for i in places))
    config: dict[str, Any] = {
        "modality": "methylated_dna" if written == "methylation" else "dna",
        "sources": [{"name": "g", "sequences": "g.fa"}],
        "window_bases": 100,
        "strands": "both",
        "tracks": [{"name": "m", "kind": "sites", "files": "s.bedgraph", "sites": {"format": "bedgraph"}}],
        "cytosines": {"written": written, "tracks": ["m"]},
        "split": {"block_bases": 500, "gap_bases": 100},
    }
    job = Job(
        config=Config.model_validate(config), seed=1, inputs={}, out=tmp_path, work=tmp_path, logs=tmp_path, recipe_folder=tmp_path,
        base_model="none",
    )  # fmt: skip
    run(job)
    table = pl.read_parquet(tmp_path / RECORDS)
    assert table["strand"].n_unique() == 2
    for start, end, strand, found in table.select("start_0based", "end", "strand", "sequence").iter_rows():
        letters = []
        for i in range(start, end):
            base = sequence[i]
            if written == "methylation" and base in "CG" and i % 2:
                base = {"C": "M", "G": "W"}[base]
            if written == "bisulfite" and base == ("C" if strand == "+" else "G") and not i % 2:
                base = "T" if strand == "+" else "A"
            letters.append(base)
        wanted = "".join(letters)
        assert found == (wanted if strand == "+" else reverse_complement(wanted))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "dna"}, "modality is dna, but with these cytosines windows are methylated_dna"),
        (
            {"cytosines": {"written": "methylation", "tracks": ["n"]}},
            r"cytosines.tracks names \['n'\], but the measured tracks are \['m'\]",
        ),
        ({"cytosines": None}, "modality is methylated_dna, but with these cytosines windows are dna"),
    ],
)
def test_letters_that_do_not_fit_the_recipe_are_refused(change: dict[str, Any], message: str) -> None:
    config = {
        "modality": "methylated_dna",
        "sources": [{"name": "g", "sequences": "g.fa"}],
        "tracks": [{"name": "m", "kind": "sites", "files": "s.bedgraph"}],
        "cytosines": {"written": "methylation", "tracks": ["m"]},
    }
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(config | change)
