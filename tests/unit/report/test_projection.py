from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from sklearn.decomposition import PCA

from biollm.report.projection import principal_components, sample_records


def test_principal_components_equal_scikit_learn_up_to_sign() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1]
    found, share = principal_components(vectors)
    pca = PCA(2, svd_solver="full")
    assert np.allclose(np.abs(found), np.abs(pca.fit_transform(vectors)))
    assert np.allclose(share, pca.explained_variance_ratio_)


def test_the_sign_of_a_component_does_not_depend_on_the_order_of_records() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1]
    assert np.allclose(principal_components(vectors[::-1])[0][::-1], principal_components(vectors)[0])


def test_equal_embeddings_lie_on_one_point() -> None:
    found, share = principal_components(np.ones((5, 4)))
    assert not found.any()
    assert share == (0.0, 0.0)


def test_the_sample_is_seeded_bounded_and_in_corpus_order(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    table = pl.DataFrame({"id": [f"{i:03}" for i in range(100)], "source": ["s"] * 100, "label_x": pl.Series([0, 1] * 50, dtype=pl.Int8)})
    table.write_parquet(path)
    first = sample_records(path, "x", 30, seed=1)
    assert first.height == 30
    assert first["id"].is_sorted()
    assert first.equals(sample_records(path, "x", 30, seed=1))
    assert not first.equals(sample_records(path, "x", 30, seed=2))
    assert sample_records(path, "x", 1000, seed=1).height == 100
