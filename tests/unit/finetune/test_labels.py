"""Columns of the corpus as answers, by hand."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from biollm.core.errors import DataError
from biollm.finetune import labels
from biollm.training.objectives import IGNORED

SPREAD = [0, 2, 3, 1, 0]  # residues of five tokens, the first and the last special


@pytest.mark.parametrize(
    ("classes", "wanted"),
    [
        ([0, 0, 1, 1, 1, 0], [IGNORED, 0, 1, 0, IGNORED]),  # tokens of one class each
        ([0, 1, 1, 1, 0, 0], [IGNORED, 0, 1, 0, IGNORED]),  # half and half: the first class; two of three: the second
        ([1, 1, 0, IGNORED, 1, IGNORED], [IGNORED, 1, 0, IGNORED, IGNORED]),  # what is not known has no vote
    ],
)
def test_a_token_has_the_class_of_most_of_its_residues(classes: list[int], wanted: list[int]) -> None:
    found = labels.token_classes(np.array(SPREAD), np.arange(6), np.array(classes), 2)
    assert found.tolist() == wanted


def test_the_tokens_of_a_word_have_its_class_and_the_space_before_it_has_no_vote() -> None:
    text = "the µ-opioid gene"
    units = labels.residue_units(text, by_word=True)
    assert units.tolist() == [0, 0, 0, -1, *[1] * 9, -1, 2, 2, 2, 2]
    residues = np.array([3, 4, 6, 5])  # "the", " µ-" (4 bytes), "opioid", " gene"
    assert labels.token_classes(residues, units, np.array([0, 1, 2]), 3).tolist() == [0, 1, 1, 2]
    assert labels.token_classes(np.array([3, 15]), units, np.array([0, 1, 2]), 3).tolist() == [0, 1]


def test_a_unit_gets_the_mean_of_what_its_tokens_say() -> None:
    units = labels.residue_units("ab cd", by_word=True)
    says = np.array([[1.0, 0.0], [0.2, 0.8], [0.6, 0.4]], dtype=np.float32)
    found = labels.unit_probabilities(says, np.array([1, 3, 0]), units, 2)  # "a", "b c"; nothing stands for "d"
    assert np.allclose(found, [[0.6, 0.4], [0.2, 0.8]])
    assert np.isnan(labels.unit_probabilities(says, np.array([2, 0, 0]), units, 2)[1]).all()


@pytest.mark.parametrize(
    ("value", "by_word", "wanted"),
    [
        ("HHE", False, ["H", "H", "E"]),
        ("in in out", False, ["in", "in", "out"]),
        ("O B-Gene", True, ["O", "B-Gene"]),
        ('["O", null]', True, ["O", None]),
        ("[H]", False, ["[", "H", "]"]),
        (["x", None], False, ["x", None]),
        ([1, 0], False, ["1", "0"]),
    ],
)
def test_classes_of_residues_are_a_list_words_or_letters(value: object, by_word: bool, wanted: list[str | None]) -> None:
    assert labels.unit_classes(value, by_word) == wanted


def test_balanced_weights_give_each_class_the_same_share() -> None:
    counts = np.array([80, 15, 5])
    weights = labels.balanced_weights(counts)
    assert np.allclose(weights * counts, 100 / 3)
    assert (weights * counts).sum() == pytest.approx(100)
    assert labels.balanced_weights(np.array([4, 0])).tolist() == [1.0, 0.0]
    assert labels.balanced_weights(np.array([[1, 3], [2, 2]])).tolist() == pytest.approx(np.array([[2.0, 2 / 3], [1.0, 1.0]]))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([2, 10, 1], ["1", "2", "10"]), (["b", "a", None], ["a", "b"]), ([1.0, 0.0], ["0", "1"]), ([True, False], ["0", "1"])],
)
def test_classes_are_read_from_the_column_in_order(values: list[object], wanted: list[str]) -> None:
    records = pl.DataFrame({"id": [f"r{i}" for i in range(len(values))], "label_x": values})
    assert labels.class_names(labels.classes_of(records, "label_x")) == wanted


def _records(values: list[object]) -> pl.DataFrame:
    return pl.DataFrame({"id": [f"r{i}" for i in range(len(values))], "label_x": values})


def test_wrong_answers_are_named_with_their_records() -> None:
    with pytest.raises(DataError, match=r"record r1 has 0\.5 in label_x; expected a class: .* for values set task: regression"):
        labels.classes_of(_records([1.0, 0.5]), "label_x")
    with pytest.raises(DataError, match=re.escape("2 records have 'c' in label_x (r1, r2); expected one of a, b; correct them, or add it")):
        labels.class_numbers(["r0", "r1", "r2"], ["a", "c", "c"], ["a", "b"], "label_x")
    with pytest.raises(DataError, match="record r1 has nan in label_x; expected a finite number"):
        labels.numbers_of(_records([1.0, float("nan")]), "label_x")
    with pytest.raises(DataError, match="record r0 has inf in label_x"):
        labels.numbers_of(_records([float("inf"), 1.0]), "label_x")
    with pytest.raises(DataError, match="label_x holds words, such as 'long'; task: regression expects numbers"):
        labels.numbers_of(_records(["long"]), "label_x")
    with pytest.raises(DataError, match="record r1 has 2 in label_x; expected 0, 1 or nothing"):
        labels.yes_no_matrix(_records([1, 2, None]), ["label_x"])
    with pytest.raises(DataError, match="the train split holds only 'b' of the classes a, b; expected two or more"):
        labels.check_classes(np.array([1, 1, IGNORED]), ["a", "b"], "label_x")
    with pytest.raises(DataError, match="label_x: the train split holds 2 records with 1 and 0 with 0"):
        labels.check_yes_no(np.array([[1.0], [1.0], [np.nan]], dtype=np.float32), ["label_x"])
    with pytest.raises(DataError, match="no label 'y'; it has x: name one of them"):
        labels.label_column(_records([1]), "y")
