from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.decomposition import PCA

from biollm.report.charts import embedding_map
from biollm.report.projection import UMAP_RECORDS, EmbeddingMap, label_names, map_embeddings, principal_components, sample_records


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
    table = pl.DataFrame(
        {
            "id": [f"{i:03}" for i in range(100)],
            "source": ["s"] * 100,
            "split": ["train"] * 100,
            "label_x": pl.Series([0, 1] * 50, dtype=pl.Int8),
        }
    )
    table.write_parquet(path)
    first = sample_records(path, "x", 30, seed=1)
    assert first.height == 30
    assert first["id"].is_sorted()
    assert first.equals(sample_records(path, "x", 30, seed=1))
    assert not first.equals(sample_records(path, "x", 30, seed=2))
    assert sample_records(path, "x", 1000, seed=1).height == 100


def test_more_components_begin_with_the_first_two() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1]
    assert np.array_equal(principal_components(vectors, 5)[0][:, :2], principal_components(vectors)[0])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1], ["not x", "x"]),
        ([True, False], ["x", "not x"]),
        (["helix", "loop"], ["helix", "loop"]),
        ([3, 7], ["3", "7"]),
        ([1.0, 0.0], ["x", "not x"]),
        (
            list(range(16)),
            [f"x, quarter {i}" for i in ("1 (lowest)", "2", "3", "4 (highest)") for _ in range(4)],
        ),
    ],
)
def test_labels_have_names_that_a_legend_can_show(values: list[object], expected: list[str]) -> None:
    assert label_names(pl.Series(values), "x").to_list() == expected


def test_numbers_are_shown_by_their_quarter() -> None:
    named = label_names(pl.Series(np.random.default_rng(0).normal(size=400)), "x")
    assert named.value_counts()["count"].to_list() == [100] * 4


def _write(folder: Path, records: int) -> tuple[Path, pl.DataFrame]:
    """Two far islands in eight dimensions."""
    vectors = np.random.default_rng(0).normal(size=(records, 8)).astype(np.float32)
    vectors[: records // 2, 0] += 40
    ids = [str(i) for i in range(records)]
    table = pl.DataFrame({"id": ids, "embedding": pl.Series(vectors, dtype=pl.Array(pl.Float32, 8))})
    table.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(folder / "e.parquet")  # in another order than the sample
    island = ["one" if i < records // 2 else "two" for i in range(records)]
    sample = pl.DataFrame({"id": ids, "source": ["s"] * records, "label": island, "split": ["train"] * records})
    return folder / "e.parquet", sample


def test_few_records_are_drawn_without_umap(tmp_path: Path) -> None:
    assert map_embeddings(*_write(tmp_path, UMAP_RECORDS - 1)).views == ("PCA",)


def test_umap_keeps_islands_apart_and_equal_seeds_give_equal_maps(tmp_path: Path) -> None:
    path, sample = _write(tmp_path, UMAP_RECORDS)
    first, second = (map_embeddings(path, sample) for _ in range(2))
    assert first.views == ("PCA", "UMAP")
    assert first.points == second.points
    place = {
        island: np.mean([[p["x_UMAP"], p["y_UMAP"]] for p in first.points if p["label"] == island], axis=0) for island in ("one", "two")
    }
    spread = max(np.std([[p["x_UMAP"], p["y_UMAP"]] for p in first.points if p["label"] == island]) for island in place)
    assert np.linalg.norm(place["one"] - place["two"]) > 2 * spread


@pytest.mark.parametrize(("views", "switch"), [(("PCA",), False), (("PCA", "UMAP"), True)])
def test_the_reader_chooses_colours_and_where_there_are_two_the_view(views: tuple[str, ...], switch: bool) -> None:
    point = {"id": "a", "source": "s", "label": "coding", "split": "test"} | {f"{axis}_{view}": 1.0 for axis in "xy" for view in views}
    spec = embedding_map(EmbeddingMap([point], (0.5, 0.2), views), "coding")
    params = {param["name"]: param for param in spec["params"]}
    assert params["colours"]["bind"]["options"] == ["coding", "split", "source"]
    assert ("bind" in params["view"]) == switch
    assert params["view"]["value"] == views[-1], "UMAP first, where it was drawn"
