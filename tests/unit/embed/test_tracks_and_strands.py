"""Tracks as the model was trained with them, and both strands of DNA."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from Bio.Seq import reverse_complement

from biollm import Embedder
from biollm.core.errors import DataError
from biollm.modeling.fusion import FusedModel, save_fusion
from biollm.modeling.loading import load_model
from biollm.modeling.tracks import Track

Dna = Callable[[int, int], str]


@pytest.fixture(scope="module")
def sequences(dna: Dna) -> list[str]:
    return [dna(length, length) for length in (40, 64, 700, 31, 90)]


@pytest.fixture(scope="module")
def tracks(sequences: list[str], levels: Callable[[int, int], Any]) -> list[dict[str, Any]]:
    return [{"meth": levels(len(sequence), i)} for i, sequence in enumerate(sequences)]


@pytest.fixture(scope="module")
def embedder(measured: Path) -> Embedder:
    return Embedder(measured, input="sequence")


def test_measured_tracks_act_and_do_not_depend_on_the_batch(
    embedder: Embedder, measured: Path, sequences: list[str], tracks: list[dict[str, Any]]
) -> None:
    found = embedder.embed(sequences, tracks)
    for batch_size in (1, 7):
        assert np.abs(embedder.embed(sequences, tracks, batch_size=batch_size) - found).max() < 1e-5
    assert np.abs(embedder.embed(sequences[::-1], tracks[::-1])[::-1] - found).max() < 1e-5
    off = Embedder(measured, input="sequence", tracks="off").embed(sequences)
    assert np.abs(found - off).max(axis=1).min() > 1e-3
    as_track = [{"meth": Track(given["meth"], None)} for given in tracks]
    assert np.array_equal(embedder.embed(sequences, as_track), found)


def test_a_record_without_tracks_counts_as_if_there_were_no_fusion(
    embedder: Embedder, merged: Path, sequences: list[str], tracks: list[dict[str, Any]]
) -> None:
    found = embedder.embed(sequences[:2], [None, tracks[1]])
    np.testing.assert_allclose(found[0], Embedder(merged, input="sequence").embed(sequences[:1])[0], atol=1e-5)
    np.testing.assert_allclose(found[1], embedder.embed(sequences[1:2], tracks[1:2])[0], atol=1e-5)


def test_tracks_without_the_coverage_that_the_model_was_trained_with_are_told_once(
    embedder: Embedder,
    measured: Path,
    sequences: list[str],
    tracks: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    embedder.embed(sequences, tracks)
    assert capsys.readouterr().err == "", "nobody counted them in training either"
    model = load_model(measured)
    assert model.spec is not None
    meth, cpg = model.spec.channels
    spec = model.spec.model_copy(update={"channels": [meth.model_copy(update={"mean_coverage": 5.0}), cpg]})
    save_fusion(shutil.copytree(measured, tmp_path / "model"), FusedModel(model.stock, spec, model.operator))
    counted = Embedder(tmp_path / "model", input="sequence")
    with_coverage = [{"meth": Track(given["meth"], np.full(len(given["meth"]), 5, dtype=np.float32))} for given in tracks]
    counted.embed(sequences, [None, *with_coverage[1:]])
    counted.count_tokens(sequences)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        counted.embed(sequences, [with_coverage[0], *tracks[1:]])
    said = (
        "embed: the tracks meth come without coverage, which this model was trained with, so it is told none; give Track(level, coverage)"
    )
    assert capsys.readouterr().err.count(said) == 1


def test_a_missing_value_is_not_counted(embedder: Embedder, merged: Path, sequences: list[str]) -> None:
    nothing = {"meth": np.full(len(sequences[0]), np.nan), "cpg": np.full(len(sequences[0]), np.nan)}
    plain = Embedder(merged, input="sequence").embed(sequences[:1])
    np.testing.assert_allclose(embedder.embed(sequences[:1], [nothing]), plain, atol=1e-5)


def test_tracks_that_do_not_fit_are_refused_by_name(embedder: Embedder, merged: Path, measured: Path, sequences: list[str]) -> None:
    own = {"meth": np.zeros(40, dtype=np.float32)}
    with pytest.raises(DataError, match=r"this model reads measured tracks \(meth\), but was given none"):
        embedder.embed(sequences)
    with pytest.raises(DataError, match="this model has no fusion, but was given tracks"):
        Embedder(merged).embed(sequences[:1], [own])
    with pytest.raises(DataError, match="tracks were given to an Embedder with tracks='off'"):
        Embedder(measured, tracks="off").embed(sequences[:1], [own])
    with pytest.raises(DataError, match="given 2 texts, but tracks of 1"):
        embedder.embed(sequences[:2], [own])
    with pytest.raises(DataError, match="record b: track 'meth' has 40 values, but the sequence has 64 residues"):
        embedder.embed(sequences[:2], [own, own], names=["a", "b"])
    with pytest.raises(DataError, match="record a: tracks are list; expected a mapping"):
        embedder.embed(sequences[:1], [[1.0]], names=["a"])  # type: ignore[list-item]
    with pytest.raises(DataError, match="record t: has tracks, but is read as text"):
        Embedder(measured).embed(["the gene is in the cell"], [{"meth": np.zeros(23)}], names=["t"])


@pytest.mark.parametrize("pooling", ["mean", "max", "centre", "weighted", "last", "cls"])
def test_both_strands_are_the_mean_of_the_two_with_the_tracks_turned(
    measured: Path, sequences: list[str], tracks: list[dict[str, Any]], pooling: Any
) -> None:
    other = [reverse_complement(sequence) for sequence in sequences]
    turned = [{"meth": given["meth"][::-1]} for given in tracks]
    one = {"centre_base": 7} if pooling == "centre" else {}
    back = {"centre_base": -8} if pooling == "centre" else {}
    both = Embedder(measured, input="sequence", pooling=pooling, strands="both", **one).embed(sequences, tracks)
    there = Embedder(measured, input="sequence", pooling=pooling, **one).embed(sequences, tracks)
    here = Embedder(measured, input="sequence", pooling=pooling, **back).embed(other, turned)
    np.testing.assert_allclose(both, (there + here) / 2, atol=1e-5)
    from_other = Embedder(measured, input="sequence", pooling=pooling, strands="both", **back).embed(other, turned)
    np.testing.assert_allclose(both, from_other, atol=1e-5)
    assert np.abs(there - here).max() > 1e-3


def test_per_base_of_both_strands_lies_base_by_base(merged: Path, sequences: list[str]) -> None:
    both = Embedder(merged, input="sequence", strands="both").per_base(sequences)
    single = Embedder(merged, input="sequence")
    forward, other = single.per_base(sequences), single.per_base([reverse_complement(s) for s in sequences])
    for found, a, b in zip(both, forward, other, strict=True):
        np.testing.assert_allclose(found, (a + b[::-1]) / 2, atol=1e-5)


def test_text_has_no_other_strand(merged: Path) -> None:
    with pytest.raises(DataError, match="record t is read as text, which has no other strand; use input='sequence'"):
        Embedder(merged, strands="both").embed(["ACGTACGTACGTACGTACGT", "the gene is in the cell"], names=["s", "t"])
