"""An Embedder as scikit-learn wants it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator

from biollm import Embedder, SequenceEmbedder
from biollm.core.errors import ConfigError, DataError

# scikit-learn's checks that do not bring numbers of their own; check_estimator itself leaves out all that need a 2-d array.
APPLICABLE = [
    "check_no_attributes_set_in_init",
    "check_get_params_invariance",
    "check_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_mixin_order",
]


@pytest.fixture(scope="module")
def sequences(dna: Callable[[int, int], str]) -> list[str]:
    return [dna(40, i) for i in range(12)] + ["CG" * 20 + dna(10, i) for i in range(12)]


@pytest.mark.parametrize("name", APPLICABLE)
def test_it_keeps_scikit_learns_contract(merged: Path, name: str) -> None:
    check = getattr(estimator_checks, name)
    check("SequenceEmbedder", SequenceEmbedder(str(merged)))


def test_its_defaults_are_parameters_of_the_embedder() -> None:
    estimator_checks.check_parameters_default_constructible("SequenceEmbedder", SequenceEmbedder())
    ours, wanted = (set(inspect.signature(kind.__init__).parameters) for kind in (SequenceEmbedder, Embedder))
    assert ours == wanted


@pytest.mark.filterwarnings("ignore:Can't test estimator")
def test_check_estimator_finds_no_fault(merged: Path) -> None:
    results = check_estimator(SequenceEmbedder(str(merged)), on_fail=None, on_skip=None)
    assert not [result for result in results if result["status"] == "failed"]


def test_it_gives_what_the_embedder_gives(merged: Path, sequences: list[str]) -> None:
    found = SequenceEmbedder(merged, pooling=["mean", "max"]).fit_transform(sequences)
    assert np.array_equal(found, Embedder(merged, pooling=["mean", "max"]).embed(sequences))
    fitted = SequenceEmbedder(merged).fit(sequences)
    frame = pd.DataFrame({"dna": sequences})
    for given in (np.asarray(sequences), frame["dna"], frame, frame.to_numpy()):
        assert np.array_equal(fitted.transform(given), found[:, :32])
    assert list(fitted.get_feature_names_out()[:2]) == ["embedding0", "embedding1"]
    assert len(fitted.get_feature_names_out()) == 32


def test_a_pipeline_of_it_is_fitted_scored_and_searched(merged: Path, sequences: list[str]) -> None:
    labels = [0] * 12 + [1] * 12
    pipeline = make_pipeline(SequenceEmbedder(str(merged)), LogisticRegression())
    assert cross_val_score(pipeline, sequences, labels, cv=2).mean() > 0.8
    search = GridSearchCV(pipeline, {"sequenceembedder__pooling": ["mean", "last"]}, cv=2).fit(sequences, labels)
    assert search.best_params_["sequenceembedder__pooling"] in ("mean", "last")


def test_a_copy_of_a_fitted_one_is_fitted_and_a_clone_is_not(merged: Path, sequences: list[str]) -> None:
    fitted = SequenceEmbedder(str(merged), layer=[1, -1]).fit(sequences)
    again = copy.deepcopy(fitted)
    assert "_embedder" in again.__dict__
    assert again.__dict__["_embedder"] is None, "weights are not copied: they are in the folder"
    assert np.array_equal(again.transform(sequences), fitted.transform(sequences))
    assert clone(fitted).get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        clone(fitted).transform(sequences)


def test_what_is_no_string_is_refused(merged: Path) -> None:
    embedder = SequenceEmbedder(str(merged))
    with pytest.raises(DataError, match="row 1 is int, not a string"):
        embedder.fit(["ACGT", 3])
    with pytest.raises(DataError, match=r"one string a row, but was given an array of shape \(2, 2\)"):
        embedder.fit([["ACGT", "A"], ["C", "G"]])
    with pytest.raises(DataError, match=r"reads a list of strings, but was given str; write \[text\]"):
        embedder.fit("ACGT")
    with pytest.raises(ConfigError, match="no folder; give the folder of a model"):
        SequenceEmbedder().fit(["ACGT"])
