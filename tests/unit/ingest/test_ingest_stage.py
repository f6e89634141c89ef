"""Raw files into the corpus, through the stage itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.errors import DataError
from biollm.core.job import Job
from biollm.ingest.config import Config
from biollm.ingest.stage import run
from biollm.modeling.corpus import read_records, read_tracks

Dna = Callable[[int, int], str]
Text = Callable[..., str]


def ingest(folder: Path, fasta: str, gff: str | None = None, **config: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
    (folder / "a.fa").write_text(fasta)
    source: dict[str, Any] = {"name": "s", "sequences": "a.fa"}
    if gff is not None:
        (folder / "a.gff").write_text(gff)
        source["annotation"] = "a.gff"
    values: dict[str, Any] = {
        "sources": [source],
        "window_bases": 20,
        "split": {"block_bases": 60, "gap_bases": 0, "validation": 0.25, "test": 0.25},
    }
    seed = config.pop("seed", 0)
    settings = Config.model_validate(values | config)
    job = Job(config=settings, seed=seed, inputs={}, out=folder, work=folder, logs=folder, recipe_folder=folder, base_model="none")
    facts = run(job)
    return read_records(folder), facts


def test_windows_are_the_sequence_cut_in_order_and_the_tail_is_counted(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    sequence = dna(255, 1)
    table, facts = ingest(tmp_path, fasta_text({"chr1": sequence}))
    assert table["sequence"].to_list() == [sequence[i : i + 20] for i in range(0, 240, 20)]
    assert table["id"].to_list()[:2] == ["chr1:0-20", "chr1:20-40"]
    assert (table["end"] - table["start_0based"]).unique().to_list() == [20]
    assert facts["dropped"] == {"near_another_split": 0, "shorter_than_window": 1, "too_many_unknown_bases": 0}


def test_every_window_is_kept_or_counted_as_dropped(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    contigs = {"a": dna(300, 1) + "N" * 50 + dna(205, 2), "short": "ACGT", "b": dna(400, 3)}
    _, facts = ingest(tmp_path, fasta_text(contigs), stride_bases=7, split={"block_bases": 60, "gap_bases": 30})
    starts = sum(-(-len(sequence) // 7) for sequence in contigs.values())
    assert sum(facts["records"].values()) + sum(facts["dropped"].values()) == starts
    assert all(count > 0 for count in facts["dropped"].values())


def test_a_window_with_exactly_the_allowed_share_of_n_is_kept(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    at, above = "N" * 5 + dna(15, 1), "N" * 6 + dna(14, 2)
    table, facts = ingest(tmp_path, fasta_text({"c": dna(240, 3) + at + above}), max_unknown_fraction=0.25)
    assert at in table["sequence"].to_list()
    assert above not in table["sequence"].to_list()
    assert facts["dropped"]["too_many_unknown_bases"] == 1


@pytest.mark.parametrize("percent", range(1, 100, 4))
def test_the_n_limit_holds_at_every_percent(tmp_path: Path, dna: Dna, fasta_text: Text, percent: int) -> None:
    limit = "N" * percent + dna(100 - percent, percent)
    split = {"block_bases": 100, "gap_bases": 0}
    table, _ = ingest(tmp_path, fasta_text({"c": dna(1500, 1) + limit}), window_bases=100, max_unknown_fraction=percent / 100, split=split)
    assert limit in table["sequence"].to_list()


def test_a_label_holds_from_exactly_its_fraction_on(tmp_path: Path, dna: Dna, fasta_text: Text, gff_text: Text) -> None:
    # windows of 20, min_fraction 0.35 is 7 bases: [0, 20) has 7 in two parts that overlap, [20, 40) has 6, [40, 60) all
    rows = [("c", "CDS", 1, 5), ("c", "CDS", 4, 7), ("c", "CDS", 35, 60), ("c", "gene", 61, 240)]
    labels = [{"name": "coding", "feature": "CDS", "min_fraction": 0.35}, {"name": "genic", "feature": "gene", "min_fraction": 1.0}]
    table, facts = ingest(tmp_path, fasta_text({"c": dna(250, 1)}), gff_text(rows), labels=labels)
    assert table["label_coding"].to_list() == [1, 0, 1] + [0] * 9
    assert table["label_genic"].to_list() == [0, 0, 0] + [1] * 9
    assert sum(facts["positives"]["coding"].values()) == 2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_splits(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    text = fasta_text({"c": dna(3000, 1)})
    written = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        ingest(tmp_path / name, text, seed=seed)
        written.append((tmp_path / name / "records.parquet").read_bytes())
    assert written[0] == written[1] != written[2]


def test_every_source_has_its_share_of_every_split(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    (tmp_path / "b.fa").write_text(fasta_text({"y": dna(6000, 2)}))
    sources = [{"name": "x", "sequences": "a.fa"}, {"name": "y", "sequences": "b.fa"}]
    table, _ = ingest(tmp_path, fasta_text({"x": dna(3000, 1)}), sources=sources)
    for source, windows in (("x", 150), ("y", 300)):
        counts = dict(table.filter(pl.col("source") == source)["split"].value_counts().iter_rows())
        assert max(abs(counts[split] - windows / 4) for split in ("validation", "test")) <= 3, counts


def test_an_id_in_two_sources_is_refused(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    (tmp_path / "b.fa").write_text(fasta_text({"c": dna(300, 2)}))
    sources = [{"name": "x", "sequences": "a.fa"}, {"name": "y", "sequences": "b.fa"}]
    with pytest.raises(DataError, match="sources 'x' and 'y' both hold a record 'c'; ids must differ over all sources"):
        ingest(tmp_path, fasta_text({"c": dna(300, 1)}), sources=sources)


def test_a_corpus_without_a_window_is_refused(tmp_path: Path, fasta_text: Text) -> None:
    with pytest.raises(DataError, match=r"no window of 20 bases is left .*'shorter_than_window': 1.*lower window_bases"):
        ingest(tmp_path, fasta_text({"c": "ACGT"}))


def test_an_empty_split_is_refused_with_the_way_out(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    with pytest.raises(DataError, match=r"the splits \['validation', 'test'\] are empty .*; lower ingest.split.block_bases \(now 9000\)"):
        ingest(tmp_path, fasta_text({"c": dna(300, 1)}), split={"block_bases": 9000, "gap_bases": 0})


def test_a_missing_track_value_is_null_and_never_nan_or_zero(tmp_path: Path, dna: Dna, fasta_text: Text) -> None:
    tracks = [{"name": "cpg", "kind": "cpg_observed_expected", "window_bases": 8}]
    no_c = "ATTA" * 5
    table, _ = ingest(tmp_path, fasta_text({"c": no_c + dna(240, 1)}), tracks=tracks)
    assert table["track_cpg"][0].to_list() == [None] * 20
    assert all(value is None or np.isfinite(value) for values in table["track_cpg"].to_list() for value in values)
    assert any(value is not None and value > 0 for values in table["track_cpg"].to_list() for value in values)
    ((first,), *_) = read_tracks(table, ["cpg"])
    assert first.dtype == np.float32
    assert np.isnan(first).all()
    assert len(first) == 20


@given(st.integers(2, 40), st.data())
def test_label_coverage_does_not_depend_on_how_features_are_cut(
    tmp_path_factory: pytest.TempPathFactory, length: int, data: st.DataObject
) -> None:
    from biollm.ingest.stage import _label_coverage  # the pure part: the stage would need hundreds of whole corpora

    folder = tmp_path_factory.mktemp("cut")
    spans = data.draw(
        st.lists(st.tuples(st.integers(1, length), st.integers(1, length)).map(lambda p: (min(p), max(p))), min_size=1, max_size=4)
    )
    (folder / "a.fa").write_text(f">c\n{'A' * length}\n")
    (folder / "a.gff").write_text("".join(f"c\tx\tCDS\t{a}\t{b}\t.\t+\t.\tI\n" for a, b in spans))
    config = Config.model_validate(
        {"sources": [{"name": "s", "sequences": "a.fa", "annotation": "a.gff"}], "labels": [{"name": "l", "feature": "CDS"}]}
    )
    job = Job(config=config, seed=0, inputs={}, out=folder, work=folder, logs=folder, recipe_folder=folder, base_model="none")
    from biollm.ingest.fasta import read_dna

    covered = _label_coverage(job, config.sources[0], read_dna([folder / "a.fa"]))["l"]["c"]
    naive = [any(a - 1 <= position < b for a, b in spans) for position in range(length)]
    assert np.diff(covered).tolist() == naive
