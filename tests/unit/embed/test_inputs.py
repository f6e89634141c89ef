"""The same records from every kind of source."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import polars as pl
import pytest

from biollm import Embedder
from biollm.core.errors import ConfigError, DataError, ResourceError
from biollm.embed.files import FileJob, embed_file
from biollm.embed.inputs import gather, read_batches
from biollm.embed.settings import Settings


@pytest.fixture(scope="module")
def sequences(dna: Callable[[int, int], str]) -> list[str]:
    return [dna(30 + i, i) for i in range(11)]


@pytest.fixture(scope="module")
def names(sequences: list[str]) -> list[str]:
    return [f"r{i}" for i in range(len(sequences))]


def sources(folder: Path, sequences: list[str], names: list[str], fasta_text: Callable[..., str]) -> dict[str, Any]:
    fasta, zipped, parquet, parts = folder / "a.fa", folder / "a.fa.gz", folder / "a.parquet", folder / "parts"
    text = fasta_text(dict(zip(names, sequences, strict=True)), width=20)
    fasta.write_text(text)
    zipped.write_bytes(gzip.compress(text.encode()))
    table = pl.DataFrame({"id": names, "sequence": sequences})
    table.write_parquet(parquet, row_group_size=4)
    parts.mkdir()
    for i in range(3):
        table.slice(4 * i, 4).write_parquet(parts / f"{i}.parquet")
    pandas = pd.DataFrame({"id": names, "sequence": pd.Categorical(sequences)}, index=range(5, 16))
    cells = anndata.AnnData(np.zeros((len(names), 1)), obs=pd.DataFrame({"sequence": sequences}, index=names))
    return {"fasta": fasta, "gz": zipped, "parquet": parquet, "parts": parts, "polars": table, "pandas": pandas, "anndata": cells}


def test_every_source_gives_the_same_records_in_batches_of_any_size(
    tmp_path: Path, sequences: list[str], names: list[str], fasta_text: Callable[..., str]
) -> None:
    for kind, source in sources(tmp_path, sequences, names, fasta_text).items():
        for rows, skip in ((4, 0), (5, 0), (100, 0), (4, 3), (4, 4), (4, 11)):
            batches = list(read_batches(source, rows, skip=skip))
            assert [i for batch in batches for i in batch.ids] == names[skip:], (kind, rows, skip)
            assert [t for batch in batches for t in batch.texts] == sequences[skip:], (kind, rows, skip)
            assert all(len(batch.ids) <= rows for batch in batches)


def test_embed_reads_every_source(merged: Path, tmp_path: Path, sequences: list[str], names: list[str], fasta_text: Any) -> None:
    embedder = Embedder(merged)
    wanted = embedder.embed(sequences)
    for kind, source in sources(tmp_path, sequences, names, fasta_text).items():
        assert np.abs(embedder.embed(source) - wanted).max() < 1e-6, kind


def test_a_column_alone_is_read_as_its_list(merged: Path, sequences: list[str]) -> None:
    embedder = Embedder(merged)
    wanted = embedder.embed(sequences)
    for column in (pl.Series(sequences), pd.Series(sequences, index=range(5, 16)), pd.Series(pd.Categorical(sequences))):
        assert np.array_equal(embedder.embed(column), wanted)
    with pytest.raises(DataError, match="text number 1 is NoneType, not a string"):
        embedder.embed(pl.Series(["ACGT", None]))


def test_tracks_are_columns_of_a_table(measured: Path, tmp_path: Path, sequences: list[str], levels: Callable[[int, int], Any]) -> None:
    tracks = [levels(len(sequence), i) for i, sequence in enumerate(sequences)]
    coverage = [np.full(len(t), 3.0, dtype=np.float32) for t in tracks]
    table = pl.DataFrame({"sequence": sequences, "track_meth": tracks, "coverage_meth": coverage}).with_columns(
        pl.when(pl.arange(0, 11) == 4).then(None).otherwise(pl.col("track_meth")).alias("track_meth")
    )
    table.write_parquet(tmp_path / "a.parquet")
    found = gather(tmp_path / "a.parquet", channels=["meth", "cpg"])
    assert found.ids == [str(i) for i in range(11)]
    assert found.tracks is not None
    assert found.tracks[4] is None
    np.testing.assert_array_equal(found.tracks[0]["meth"].level, tracks[0])  # type: ignore[index, union-attr]
    embedder = Embedder(measured, input="sequence")
    wanted = embedder.embed(sequences, found.tracks)
    other = table.with_columns(track_cpg=pl.col("track_meth"))  # a corpus has it too; the model's follows from the sequence
    for source in (table, tmp_path / "a.parquet", other):
        assert np.array_equal(embedder.embed(source), wanted)


def test_tracks_that_are_no_numbers_are_refused_by_record(measured: Path, sequences: list[str]) -> None:
    words = pl.DataFrame({"id": ["r0"], "sequence": sequences[:1], "track_meth": [["x"] * 30]})
    with pytest.raises(DataError, match=r"record r0: track 'meth' holds what is no number"):
        gather(words, channels=["meth"])
    counted = words.with_columns(track_meth=pl.Series([[0.5] * 30]), coverage_meth=pl.Series(["x"]))
    with pytest.raises(DataError, match=r"record r0: the coverage of track 'meth' holds what is no number"):
        gather(counted, channels=["meth"])
    with pytest.raises(DataError, match=r"record number 0: track 'meth' holds what is no number"):
        Embedder(measured).embed(sequences[:1], [{"meth": "hello"}])


def test_tracks_that_a_model_does_not_read_are_named(
    merged: Path, measured: Path, tmp_path: Path, sequences: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    levels = [[0.5] * len(sequence) for sequence in sequences]
    table = pl.DataFrame({"sequence": sequences, "track_ATAC": levels, "track_meth": levels})
    Embedder(merged).embed(table)
    assert "does not read the tracks ATAC, meth of this table; it reads none" in capsys.readouterr().err
    Embedder(measured).embed(table)
    assert "does not read the tracks ATAC of this table; it was trained with meth" in capsys.readouterr().err
    Embedder(measured, tracks="off").embed(table)
    assert "does not read" not in capsys.readouterr().err
    table.write_parquet(tmp_path / "table.parquet")
    Embedder(merged).embed(tmp_path / "table.parquet")
    assert "does not read the tracks ATAC, meth" in capsys.readouterr().err


def test_a_frame_of_pandas_may_hold_records_without_tracks(measured: Path, sequences: list[str]) -> None:
    levels = [np.full(len(sequence), 0.5) for sequence in sequences]
    for missing in (None, float("nan")):
        frame = pd.DataFrame({"sequence": sequences, "track_meth": [levels[0], missing, *levels[2:]]})
        found = Embedder(measured).embed(frame)
        expected = Embedder(measured).embed(sequences, [{"meth": levels[0]}, None, *({"meth": each} for each in levels[2:])])
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("level", [0.5, None, [[0.5]] * 3])
def test_a_track_of_another_shape_is_named(measured: Path, level: Any) -> None:
    with pytest.raises(DataError, match=r"record .*: track 'meth' has an array of shape .* as values, but the sequence has"):
        Embedder(measured).embed(["ACGTACGTACGTACGTACGT"], [{"meth": level}])


def test_another_column_is_asked_for_by_name(sequences: list[str]) -> None:
    table = pl.DataFrame({"name": ["x"], "dna": [sequences[0]]})
    assert gather(table, column="dna", id_column="name").ids == ["x"]
    with pytest.raises(ConfigError, match="the table: has no column 'sequence'; it has name, dna; name the right one"):
        gather(table)
    with pytest.raises(DataError, match="column 'n' holds Int64, not text"):
        gather(pl.DataFrame({"n": [1]}), column="n")


def test_an_empty_cell_is_named_by_its_row() -> None:
    with pytest.raises(DataError, match=r"row 2 \(b\): column 'sequence' is empty; remove the row or fill it"):
        gather(pl.DataFrame({"id": ["a", "b"], "sequence": ["ACGT", None]}))


def test_sources_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="no such file; give a FASTA or Parquet file"):
        gather(tmp_path / "none.fa")
    with pytest.raises(ConfigError, match="a dict cannot be embedded; expected a list or Series of strings"):
        gather({"a": 1})
    (tmp_path / "half.parquet").write_bytes(b"PAR1half")
    with pytest.raises(DataError, match=r"half.parquet: not a whole Parquet file"):
        gather(tmp_path / "half.parquet")
    (tmp_path / "half.fa.gz").write_bytes(gzip.compress(b">a\nACGT\n" * 900)[:40])
    with pytest.raises(DataError, match=r"half.fa.gz: neither a whole FASTA nor a whole Parquet file"):
        gather(tmp_path / "half.fa.gz")
    (tmp_path / "text.fa").write_text("no fasta\n")
    with pytest.raises(DataError, match=r"text.fa: neither a whole FASTA nor a whole Parquet file"):
        gather(tmp_path / "text.fa")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: a folder without .parquet files"):
        gather(tmp_path / "empty")
    pl.DataFrame({"sequence": ["ACGT"]}).write_parquet(tmp_path / "empty" / "0.parquet")
    pl.DataFrame({"sequence": ["ACGT"], "track_x": [[1.0]]}).write_parquet(tmp_path / "empty" / "1.parquet")
    with pytest.raises(DataError, match=r"1.parquet: has other columns than 0.parquet beside it"):
        gather(tmp_path / "empty")


def test_fasta_is_sequences_however_short_or_ambiguous(merged: Path, tmp_path: Path, dna: Callable[[int, int], str]) -> None:
    sequence, file = dna(40, 1), tmp_path / "a.fa"
    coded = sequence[:5] + "R" + sequence[6:]
    file.write_text(f">coded\n{coded}\n>rna\n{sequence.replace('T', 'U')}\n>short\nacgttg\n")
    wanted = Embedder(merged, input="sequence").embed([coded.replace("R", "N"), sequence, "ACGTTG"])
    np.testing.assert_allclose(Embedder(merged).embed(file), wanted, atol=1e-5)
    embed_file(FileJob(str(merged), file, tmp_path / "out", Settings()))
    found = pl.read_parquet(tmp_path / "out" / "part-*.parquet")["embedding"].to_numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(Embedder(merged, input="text").embed(file) - wanted)[2].max() > 1e-3, "text where it is asked for"


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("MKVLAAGIV", "sequence odd holds 'L' at position 4; dna sequences hold ACGTUNRYSWKMBDHV in either case; mend or remove"),
        ("ACGTACGTACGT---ACGT", "sequence odd holds '-' at position 13; .*take the gaps out"),
    ],
)
def test_fasta_of_another_alphabet_is_refused_with_record_and_position(merged: Path, tmp_path: Path, sequence: str, message: str) -> None:
    (tmp_path / "a.fa").write_text(f">fine\nACGT\n>odd\n{sequence}\n")
    with pytest.raises(DataError, match=message):
        Embedder(merged).embed(tmp_path / "a.fa")


def test_a_string_with_a_few_ambiguous_bases_is_the_sequence_with_n(merged: Path, dna: Callable[[int, int], str]) -> None:
    embedder, sequence = Embedder(merged), dna(60, 1)
    coded = sequence[:9] + "R" + sequence[10:30] + "y" + sequence[31:]
    found = embedder.embed([coded, coded.replace("R", "N").replace("y", "N"), sequence.replace("T", "U"), sequence])
    np.testing.assert_allclose(found[[0, 2]], found[[1, 3]], atol=1e-5)
    peptide = "GASTNRKDHVMYSKDRKMYVHDRKSKMY"  # only IUPAC letters, but not most of them bases
    np.testing.assert_allclose(embedder.embed([peptide]), Embedder(merged, input="text").embed([peptide]), atol=1e-6)


def test_a_protein_is_read_without_the_stop_at_its_end(several: Path, tmp_path: Path) -> None:
    (tmp_path / "a.faa").write_text(">a\nMKVLAAGIVGLLL*\n")
    embedder = Embedder(several, modality="protein")
    wanted = Embedder(several, modality="protein", input="sequence").embed(["MKVLAAGIVGLLL"])
    np.testing.assert_allclose(embedder.embed(tmp_path / "a.faa"), wanted, atol=1e-6)
