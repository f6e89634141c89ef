"""Documents on the disk are those that were stored."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from biollm.core.errors import storage_error
from biollm.modeling.corpus import read_records
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import read_spec
from biollm.stages import Run
from biollm.training.examples import Example, divide_long, encode_corpus, encode_texts, open_tracks, possible_ids, with_end
from biollm.training.plans import token_counts
from biollm.training.stored import StoredExamples, store


def assert_same(found: Example, expected: Example) -> None:
    for name in ("ids", "residues", "special", "pool"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert (found.name, found.sequence, found.spec) == (expected.name, expected.sequence if expected.spec else "", expected.spec)
    if expected.features is None:
        assert found.features is None
    else:
        np.testing.assert_array_equal(found.features, expected.features)


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder-decoder"])
def test_texts_come_back_as_they_were(corpus: Path, model_folder: Callable[[str], Path], tmp_path: Path, architecture: str) -> None:
    encoder = Encoder(model_folder(architecture))
    whole = encode_corpus(read_records(corpus), encoder, None)
    documents = divide_long([with_end(document, 1) for document in whole], 40, end_once=True)
    assert len(documents) > len(whole), "some were divided"
    store(tmp_path / "documents.arrow", [documents[:50], documents[50:]], fused=False)
    found = StoredExamples(tmp_path / "documents.arrow", possible_ids(encoder), None, None)
    assert len(found) == len(documents)
    assert found.token_counts.tolist() == token_counts(documents).tolist()
    for one, other in zip(found, documents, strict=True):
        assert_same(one, other)
    assert_same(found[-1], documents[-1])
    assert [document.name for document in found[48:53]] == [document.name for document in documents[48:53]]
    with pytest.raises(IndexError):
        found[len(documents)]


def test_documents_of_a_fused_model_find_their_tracks(measured: Run, tmp_path: Path) -> None:
    folder, corpus = measured.results / "pretrain", measured.results / "ingest"
    encoder, spec = Encoder(folder), read_spec(folder)
    tracks = open_tracks(corpus, spec)
    documents = divide_long(encode_corpus(read_records(corpus, "test").head(9), encoder, spec, tracks), 21)
    without = encode_texts(["a text", "and another"], encoder, ["a", "b"], spec)
    store(tmp_path / "documents.arrow", [documents, without], fused=True)
    found = StoredExamples(tmp_path / "documents.arrow", possible_ids(encoder), spec, tracks)
    for one, other in zip(found[: len(documents)], documents, strict=True):
        assert_same(one, other)
    assert any(np.any(document.features) for document in found[: len(documents)]), "there are values"
    assert [document.tracks for document in found[len(documents) :]] == [None, None]


def test_computed_tracks_need_no_table(tiny_results: Path, tmp_path: Path) -> None:
    folder = tiny_results / "expand"
    encoder, spec = Encoder(folder), read_spec(folder)
    documents = encode_corpus(read_records(tiny_results / "ingest", "train").head(3), encoder, spec)
    store(tmp_path / "documents.arrow", [documents], fused=True)
    for one, other in zip(StoredExamples(tmp_path / "documents.arrow", possible_ids(encoder), spec, None), documents, strict=True):
        assert_same(one, other)
        assert np.any(one.features)


def test_no_documents_are_an_empty_list(tmp_path: Path) -> None:
    store(tmp_path / "documents.arrow", [], fused=False)
    assert list(StoredExamples(tmp_path / "documents.arrow", np.arange(3), None, None)) == []


def test_a_full_disk_is_told_as_one(
    corpus: Path, model_folder: Callable[[str], Path], tmp_path: Path, files_of_at_most: Callable[[int], AbstractContextManager[None]]
) -> None:
    documents = encode_corpus(read_records(corpus), Encoder(model_folder("encoder")), None)
    with files_of_at_most(4096), pytest.raises(OSError, match="File too large") as raised:
        store(tmp_path / "documents.arrow", [documents], fused=False)
    assert storage_error(raised.value, tmp_path) is not None
