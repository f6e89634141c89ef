"""Documents: their tokens, what each stands for, and long ones in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.errors import DataError
from biollm.modeling.channels import FusionSpec
from biollm.modeling.corpus import RowTracks, TrackTable, read_records
from biollm.modeling.encoding import Encoder
from biollm.training.examples import Example, TrainingPlan, check_lengths, divide_long, encode_corpus, encode_texts, with_end


@pytest.fixture(scope="session")
def encoder(tiny_results: Path) -> Encoder:
    return Encoder(tiny_results / "expand")


@pytest.fixture(scope="session")
def examples(tiny_results: Path, encoder: Encoder) -> list[Example]:
    return encode_corpus(read_records(tiny_results / "ingest", "train").head(40), encoder, None)


def _example(number: int) -> Example:
    return Example(np.asarray([number]), np.asarray([1]), np.asarray([False]), np.asarray([number]), name=f"n{number}")


@given(st.integers(1, 20), st.integers(0, 5), st.integers(0, 10**6))
def test_every_epoch_is_a_permutation_of_the_records(records: int, epochs: int, seed: int) -> None:
    plan = TrainingPlan([_example(i) for i in range(records)], records * epochs, seed)
    order = [int(plan[i].ids[0]) for i in range(len(plan))]
    assert all(sorted(order[e * records : (e + 1) * records]) == list(range(records)) for e in range(epochs))


@given(st.lists(st.integers(0, 59), max_size=30), st.integers(0, 10**6))
def test_the_order_is_a_function_of_seed_and_position_however_it_is_asked_for(positions: list[int], seed: int) -> None:
    examples = [_example(i) for i in range(7)]
    plan = TrainingPlan(examples, 60, seed)
    jumping = [int(plan[p].ids[0]) for p in positions]
    fresh = [int(TrainingPlan(examples, 60, seed)[p].ids[0]) for p in positions]
    assert jumping == fresh


def test_epochs_and_seeds_differ_in_their_order() -> None:
    examples = [_example(i) for i in range(50)]
    order = [int(TrainingPlan(examples, 100, 1)[i].ids[0]) for i in range(100)]
    other = [int(TrainingPlan(examples, 100, 2)[i].ids[0]) for i in range(100)]
    assert order[:50] != order[50:]
    assert order != other
    assert order[:50] != list(range(50))


def test_documents_follow_the_records_with_their_special_tokens_and_names(tiny_results: Path, encoder: Encoder) -> None:
    records = read_records(tiny_results / "ingest", "validation").head(5)
    found = encode_corpus(records, encoder, None)
    for example, sequence, name in zip(found, records["sequence"], records["id"], strict=True):
        assert encoder.tokenizer.decode(example.ids.tolist()) == sequence
        assert example.residues[[0, -1]].tolist() == [0, 0]
        assert example.special.nonzero()[0].tolist() == [0, len(example.ids) - 1]
        assert example.residues.sum() == 64
        assert example.name == name


def test_documents_of_a_fused_model_have_features_for_every_token(
    tiny_results: Path, encoder: Encoder, fusion_spec: Callable[..., FusionSpec]
) -> None:
    spec = fusion_spec("cpg")
    records = read_records(tiny_results / "ingest", "validation").head(5)
    for example, sequence in zip(encode_corpus(records, encoder, spec), records["sequence"], strict=True):
        assert example.features is not None
        assert example.features.shape == (len(example.ids), 4)
        assert not example.features[[0, -1]].any()
        assert example.features[1:-1].any()
        np.testing.assert_array_equal(example.features, spec.features(sequence, {}, example.residues))


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder-decoder"])
def test_the_tokens_of_a_text_stand_for_all_its_bytes(model_folder: Callable[[str], Path], architecture: str) -> None:
    encoder = Encoder(model_folder(architecture))
    texts = ["The gene is in the cell.", "β-globin and 5′ ends, naïve Å", "表皮", "a"]
    for text, example in zip(texts, encode_texts(texts, encoder), strict=True):
        assert example.residues.min() >= 0
        assert not example.residues[example.special].any()
        if architecture != "decoder":  # these drop what they cannot spell, and spaces
            assert example.residues.sum() <= len(text.encode())
        else:
            assert example.residues.sum() == len(text.encode())


def test_a_record_longer_than_the_model_reads_is_refused_by_name(examples: list[Example]) -> None:
    check_lengths(examples[:2], max(len(e.ids) for e in examples[:2]))
    long = examples[1]
    with pytest.raises(
        DataError, match=rf"record {long.name} has {len(long.ids)} tokens, but the model reads 5.*nothing is cut in silence"
    ):
        check_lengths([_example(1), long], 5)


@given(st.integers(3, 40))
def test_a_long_document_in_parts_has_all_its_tokens_once(
    tiny_results: Path, encoder: Encoder, fusion_spec: Callable[..., FusionSpec], capacity: int
) -> None:
    spec = fusion_spec("cpg")
    whole = encode_corpus(read_records(tiny_results / "ingest", "train").head(1), encoder, spec)[0]
    parts = divide_long([whole], capacity)
    assert all(len(part.ids) <= capacity for part in parts)
    assert np.concatenate([part.ids[~part.special] for part in parts]).tolist() == whole.ids[~whole.special].tolist()
    assert "".join(part.sequence for part in parts) == whole.sequence
    for part in parts:
        assert part.ids[part.special].tolist() == whole.ids[whole.special].tolist()
        assert part.residues.sum() == len(part.sequence)
        assert part.features is not None
        assert len(part.features) == len(part.ids)


def test_the_parts_of_a_document_hold_where_their_tracks_lie_and_not_the_tracks(
    tmp_path: Path, fusion_spec: Callable[..., FusionSpec]
) -> None:
    levels = [[i / 20 if i % 3 else None for i in range(20)] for _ in range(2)]
    pl.DataFrame({"track_CG": levels, "coverage_CG": [[float(i) for i in range(20)]] * 2}).write_parquet(tmp_path / "records.parquet")
    residues = np.asarray([0, *[4] * 5, 0])
    tracks = TrackTable(tmp_path, ["CG"])[1]
    whole = Example(np.arange(7), residues, residues == 0, np.arange(9), "ACGT" * 5, "r", fusion_spec("CG"), tracks)
    parts = divide_long([whole], 4)
    assert all(isinstance(part.tracks, RowTracks) for part in parts)
    assert whole.features is not None
    features = [part.features[1:-1] for part in parts if part.features is not None]
    np.testing.assert_array_equal(np.concatenate(features), whole.features[1:-1])
    assert np.concatenate(features).any()


@given(st.integers(3, 12), st.integers(1, 40), st.booleans())
def test_the_end_stands_once_behind_a_token_that_can_predict_it(capacity: int, tokens: int, begins: bool) -> None:
    special = np.zeros(tokens, dtype=bool)
    special[0] = begins and tokens > 1
    whole = Example(np.arange(10, 10 + tokens), (~special).astype(np.int64), special, np.arange(60))
    ended = with_end(whole, 1)
    assert ended.ids.tolist() == [*whole.ids, 1]
    assert with_end(ended, 1) is ended
    assert with_end(whole, None) is whole
    parts = divide_long([ended], capacity, end_once=True)
    assert all(len(part.ids) <= capacity for part in parts), "a row, or the context of the model, would overflow"
    assert [1 in part.ids for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].ids[-1] == 1
    assert not parts[-1].special[-2]
    assert np.concatenate([part.ids[~part.special] for part in parts]).tolist() == whole.ids[~special].tolist()
