from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import skops.io
import xgboost
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from biollm.classify.config import HeadName
from biollm.classify.heads import HEADS, Examples, LogisticHead, XGBoostHead
from biollm.classify.skops_file import dump_stable, renumber


def _examples(rows: int, seed: int) -> Examples:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 5)) * [1, 10, 100, 1, 1] + 3
    return Examples(features, features[:, 0] + rng.normal(size=rows) > 3)


def test_two_dumps_of_one_model_are_byte_equal_and_load_without_trusting_anything(tmp_path: Path) -> None:
    train = _examples(100, 0)
    paths = [tmp_path / "a.skops", tmp_path / "b.skops"]
    models = [make_pipeline(StandardScaler(), LogisticRegression()).fit(train.features, train.positive) for _ in paths]
    assert skops.io.dumps(models[0]) != skops.io.dumps(models[1]), "skops is stable by itself now: skops_file.py can go"
    for model, path in zip(models, paths, strict=True):
        dump_stable(model, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert skops.io.get_untrusted_types(file=paths[0]) == []
    loaded = skops.io.load(paths[0], trusted=[])
    assert (loaded.predict_proba(train.features) == models[0].predict_proba(train.features)).all()


def test_renumbering_keeps_values_and_objects_that_are_shared() -> None:
    shared = np.arange(3.0)
    archive = renumber(skops.io.dumps({"file": "123.txt", "one": shared, "two": shared, "other": np.zeros(2)}))
    loaded = skops.io.loads(archive)
    assert loaded["file"] == "123.txt"
    assert loaded["one"].tolist() == [0, 1, 2]
    assert loaded["other"].tolist() == [0, 0]
    names = zipfile.ZipFile(BytesIO(archive)).namelist()
    assert len(names) == 3, "the shared array is stored once"
    assert json.loads(zipfile.ZipFile(BytesIO(archive)).read("schema.json"))["protocol"] == 2


@pytest.mark.parametrize("name", list(HEADS))
def test_heads_learn_and_the_same_seed_writes_the_same_bytes(name: HeadName, tmp_path: Path) -> None:
    train, validation, other = _examples(300, 0), _examples(100, 1), _examples(100, 2)
    heads = [HEADS[name].fit(train, validation, seed=2**62) for _ in range(2)]
    files = [tmp_path / f"{i}{head.suffix}" for i, head in enumerate(heads)]
    for head, file in zip(heads, files, strict=True):
        head.save(file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert ((heads[0].score(other.features) > 0.5) == other.positive).mean() > 0.65


def test_the_saved_trees_are_the_ones_chosen_on_validation(tmp_path: Path) -> None:
    train, validation = _examples(300, 0), _examples(100, 1)
    head = XGBoostHead.fit(train, validation, seed=1)
    head.save(tmp_path / "head.ubj")
    loaded = xgboost.Booster(model_file=tmp_path / "head.ubj")
    assert f"{loaded.num_boosted_rounds()} trees" == head.choice
    assert np.array_equal(loaded.predict(xgboost.DMatrix(validation.features)), head.score(validation.features))


def test_of_equally_good_regularisations_the_strongest_is_chosen() -> None:
    features = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    separable = Examples(features, features[:, 0] > 0)
    assert LogisticHead.fit(separable, separable, seed=0).choice == "C = 0.0001"


def test_labels_of_the_validation_split_do_not_reach_the_coefficients() -> None:
    train, validation = _examples(200, 0), _examples(50, 1)
    head = LogisticHead.fit(train, validation, seed=0)
    same_C = make_pipeline(StandardScaler(), LogisticRegression(C=head.C, max_iter=2000)).fit(train.features, train.positive)
    assert np.array_equal(head.pipeline[-1].coef_, same_C[-1].coef_)
