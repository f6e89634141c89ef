"""Near pairs, clusters and stretches against plain Python over k-mer sets."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.alphabets import canonical, reverse_complement
from biollm.corpus.similarity import (
    PLANS,
    clusters,
    encode,
    identical_rows,
    least_distinct,
    near_pairs,
    shared_stretch,
)

K = PLANS["dna"].short


def random_dna(bases: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=bases))


def mutate(sequence: str, rate: float, seed: int, letters: str = "ACGT") -> str:
    """A copy in which about `rate` of the letters are others."""
    rng = random.Random(seed)
    return "".join(rng.choice(letters.replace(letter, "")) if rng.random() < rate else letter for letter in sequence)


def plain_kmers(sequence: str, k: int) -> set[str]:
    """Canonical informative k-mers, by the definition."""
    found = set()
    for i in range(len(sequence) - k + 1):
        piece = sequence[i : i + k]
        trimers = {piece[j : j + 3] for j in range(k - 2)}
        if set(piece) <= set("ACGT") and len(trimers) >= least_distinct(k, True):
            found.add(canonical(piece))
    return found


def plain_jaccard(one: str, other: str) -> float:
    a, b = plain_kmers(one, K), plain_kmers(other, K)
    return len(a & b) / len(a | b) if a | b else 0.0


def family(seed: int) -> list[str]:
    """Sequences of every degree of kinship: copies with more and more mutations, half overlaps, the other strand, strangers."""
    founder = random_dna(300, seed)
    rates = [0.005, 0.01, 0.02, 0.03, 0.05, 0.1]
    copies = [mutate(founder, rate, seed + i) for i, rate in enumerate(rates)]
    return [founder, *copies, reverse_complement(copies[1]), founder[150:] + random_dna(150, seed + 50), random_dna(300, seed + 60)]


def test_near_pairs_are_exactly_those_of_plain_sets() -> None:
    sequences = [sequence for seed in (1, 100, 200, 300) for sequence in family(seed)]
    wanted = {
        (i, j): plain_jaccard(sequences[i], sequences[j])
        for i, j in combinations(range(len(sequences)), 2)
        if plain_jaccard(sequences[i], sequences[j]) >= 0.5
    }
    pairs = near_pairs(encode(sequences, "dna"), 0.5)
    found = {(int(i), int(j)): s for i, j, s in zip(pairs.first, pairs.second, pairs.similarity, strict=True)}
    assert len(wanted) > 20
    assert found == pytest.approx(wanted)


def test_at_the_threshold_almost_no_pair_is_missed() -> None:
    """300 independent pairs with a Jaccard index a little above the threshold; 99.5 % are promised."""
    sequences = []
    for seed in range(300):
        founder = random_dna(256, seed)
        sequences += [founder, mutate(founder, 0.032, seed + 10_000)]
    wanted = {(i, i + 1) for i in range(0, 600, 2) if plain_jaccard(sequences[i], sequences[i + 1]) >= 0.5}
    pairs = near_pairs(encode(sequences, "dna"), 0.5)
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert len(wanted) > 100
    assert found <= wanted
    assert len(wanted - found) <= 2


@given(st.text("ACGTN", min_size=0, max_size=80), st.text("acgtNR", min_size=0, max_size=80))
def test_a_sequence_and_its_reverse_complement_have_the_same_kmers(one: str, other: str) -> None:
    sequence = (one + other).upper().replace("R", "N")
    if len(plain_kmers(sequence, K)) < PLANS["dna"].least:
        return
    pairs = near_pairs(encode([one + other, reverse_complement(sequence)], "dna"), 1.0)
    assert pairs.similarity.tolist() == [1.0]


@pytest.mark.parametrize("modality", ["protein", "text"])
def test_near_pairs_of_other_modalities_are_those_of_plain_sets(modality: str) -> None:
    k = PLANS[modality].short
    rng = random.Random(5)
    letters = list("ACDEFGHIKLMNPQRSTVWY") if modality == "protein" else [f"w{i}" for i in range(200)]
    founders = [rng.choices(letters, k=60) for _ in range(20)]
    rows = [*founders, *([rng.choice(letters) if rng.random() < 0.05 else letter for letter in row] for row in founders)]
    sets = [{tuple(row[i : i + k]) for i in range(len(row) - k + 1) if len(set(row[i : i + k])) >= k // 3 + 1} for row in rows]
    jaccards = {(i, j): len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for i, j in combinations(range(len(rows)), 2)}
    pairs = near_pairs(encode([("" if modality == "protein" else ", ").join(row) for row in rows], modality), 0.5)  # type: ignore[arg-type]
    found = {(int(i), int(j)): s for i, j, s in zip(pairs.first, pairs.second, pairs.similarity, strict=True)}
    assert len(found) > 10
    assert found == pytest.approx({pair: value for pair, value in jaccards.items() if value >= 0.5})


@pytest.mark.parametrize("plain", ["A" * 256, "CA" * 128, "TTAGGG" * 42, "ACGTTGCA" * 32, "N" * 256, "ACGT", ""])
def test_low_complexity_and_short_rows_resemble_nothing(plain: str) -> None:
    encoded = encode([plain, plain[1:] + "A", random_dna(256, 1)], "dna")
    assert len(near_pairs(encoded, 0.3)) == 0
    assert shared_stretch(encoded, np.array([0]), np.array([1, 2])).share.tolist() == [0.0]


def test_a_microsatellite_inside_a_window_links_no_windows() -> None:
    rows = [random_dna(100, 2 * i) + "CAG" * 20 + random_dna(96, 2 * i + 1) for i in range(50)]
    encoded = encode(rows, "dna")
    assert len(near_pairs(encoded, 0.2)) == 0
    assert shared_stretch(encoded, np.arange(25), np.arange(25, 50)).share.max() == 0.0


def test_only_pairs_of_different_parts_are_sought_when_parts_are_given() -> None:
    founder = random_dna(256, 3)
    rows = [founder, mutate(founder, 0.01, 1), mutate(founder, 0.01, 2)]
    pairs = near_pairs(encode(rows, "dna"), 0.5, np.array([0, 0, 1]))
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(0, 2), (1, 2)]


def test_no_rows_and_no_informative_rows_give_no_pairs() -> None:
    assert len(near_pairs(encode([], "dna"), 0.5)) == 0
    assert len(near_pairs(encode(["AAAA", "AAAA"], "dna"), 0.5)) == 0
    assert clusters([], "dna", 0.5).tolist() == []
    assert len(near_pairs(encode([], "text"), 0.5)) == 0
    assert len(near_pairs(encode(pl.Series([None, "!?"], dtype=pl.String), "text"), 0.5)) == 0


def test_clusters_are_the_components_of_near_pairs_and_of_equal_rows() -> None:
    start = random_dna(400, 9)
    chain = [start[i : i + 256] for i in (0, 60, 120)]  # 0 ~ 1 ~ 2 by overlap, 0 and 2 are below the threshold
    assert plain_jaccard(chain[0], chain[2]) < 0.5 < plain_jaccard(chain[0], chain[1])
    rows = [random_dna(256, 10), *chain, reverse_complement(chain[2]), "ACG", "ACG", "AAAAAAAA"]
    assert clusters(rows, "dna", 0.5).tolist() == [0, 1, 1, 1, 1, 5, 5, 7]


def test_clusters_do_not_depend_on_the_order_of_the_rows() -> None:
    rows = [sequence for seed in (1, 100, 200) for sequence in family(seed)]
    order = np.random.default_rng(0).permutation(len(rows))
    plain, mixed = clusters(rows, "dna", 0.4), clusters([rows[i] for i in order], "dna", 0.4)
    of_plain = {frozenset(np.flatnonzero(plain == name).tolist()) for name in plain}
    of_mixed = {frozenset(order[np.flatnonzero(mixed == name)].tolist()) for name in mixed}
    assert of_plain == of_mixed
    assert all(name == min(np.flatnonzero(plain == name)) for name in plain)


def test_a_large_family_of_equal_kin_is_one_cluster() -> None:
    founder = random_dna(256, 4)
    rows = [mutate(founder, 0.01, seed) for seed in range(500)]
    named = clusters(rows, "dna", 0.5)
    strangers = np.flatnonzero(named != 0)
    assert len(strangers) < 5
    assert all(plain_jaccard(rows[i], row) < 0.5 for i in strangers for j, row in enumerate(rows) if j != i)


def test_identical_rows_know_strands_and_case() -> None:
    rows = ["acgtt", "ACGTT", "AACGT", "ACGTA", "NNNNN", "NNNNN", ""]
    assert identical_rows(encode(rows, "dna")).tolist() == [0, 0, 0, 3, 4, 5, 6]
    assert identical_rows(encode(rows, "dna"), strands=False).tolist() == [0, 0, 2, 3, 4, 5, 6]
    assert identical_rows(encode(["CCO", "cco", "CCO"], "smiles")).tolist() == [0, 1, 0]
    assert identical_rows(encode(["The cell, again.", "the  cell again", "the cells again"], "text")).tolist() == [0, 0, 2]


def test_a_shared_stretch_is_the_share_of_long_kmers() -> None:
    k = PLANS["dna"].long
    one = random_dna(256, 21)
    rows = [one, one[:128] + random_dna(128, 22), reverse_complement(one[200:]) + random_dna(200, 23), random_dna(256, 24)]
    found = shared_stretch(encode(rows, "dna"), np.array([0, 3]), np.array([1, 2]))
    pieces = [canonical(one[i : i + k]) for i in range(257 - k)]
    others = plain_kmers(rows[1], k) | plain_kmers(rows[2], k)
    assert found.share.tolist() == pytest.approx([sum(piece in others for piece in pieces) / len(pieces), 0.0])
    assert found.partner.tolist() == [1, -1]


def test_the_partner_is_the_first_of_equal_ones() -> None:
    one = random_dna(256, 31)
    rows = [one, random_dna(256, 32), one[:120] + random_dna(136, 33), one[136:] + random_dna(136, 34)]
    assert shared_stretch(encode(rows, "dna"), np.array([0]), np.array([1, 2, 3])).partner.tolist() == [2]


def test_a_sample_of_kmers_tells_nearly_the_same_share(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [random_dna(1000, i) for i in range(40)]
    rows += [row[:500] + random_dna(500, 100 + i) for i, row in enumerate(rows)]
    asked, others = np.arange(40, 80), np.arange(40)
    whole = shared_stretch(encode(rows, "dna"), asked, others)
    monkeypatch.setattr("biollm.corpus.similarity._TABLE_KMERS", 5000)
    sampled = shared_stretch(encode(rows, "dna"), asked, others)
    assert whole.partner.tolist() == sampled.partner.tolist() == list(range(40))
    assert np.abs(whole.share - sampled.share).max() < 0.15
    assert (whole.share != sampled.share).any()


def test_words_of_text_are_numbered_by_the_alphabet_not_by_appearance() -> None:
    one, other = encode(["beta alpha", "gamma"], "text"), encode(["gamma", "beta alpha"], "text")
    assert one.symbols.tolist() == [1, 0, 2]
    assert other.symbols.tolist() == [2, 1, 0]


def test_taken_rows_are_the_rows() -> None:
    encoded = encode(["ACG", "", "TTTT"], "dna")
    taken = encoded.take(np.array([2, 0]))
    assert [taken.symbols[a:b].tolist() for a, b in pairwise(taken.offsets)] == [[3, 3, 3, 3], [0, 1, 2]]
