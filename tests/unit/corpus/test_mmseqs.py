"""Clusters by MMseqs2: those of `clusters`, and of relatives that share no k-mer. Debian: apt-get install mmseqs2."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from biollm.core.alphabets import reverse_complement
from biollm.core.errors import DataError, ResourceError
from biollm.corpus import mmseqs
from biollm.corpus.mmseqs import clusters_by_mmseqs, mmseqs_version
from biollm.corpus.similarity import clusters

needs_mmseqs = pytest.mark.skipif(shutil.which("mmseqs") is None, reason="mmseqs is not on the PATH (apt-get install mmseqs2)")
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


def chain(residues: int, seed: int, letters: str = RESIDUES) -> str:
    return "".join(random.Random(seed).choices(letters, k=residues))


def mutate(sequence: str, share: float, seed: int, letters: str = RESIDUES) -> str:
    """A copy in which this share of the letters, evenly spread, are others."""
    rng, places = random.Random(seed), np.linspace(0, len(sequence) - 1, round(share * len(sequence)), dtype=int)
    copy = list(sequence)
    for place in places:
        copy[place] = rng.choice(letters.replace(copy[place], ""))
    return "".join(copy)


def sets(found: np.ndarray) -> set[frozenset[int]]:  # type: ignore[type-arg]
    return {frozenset(np.flatnonzero(found == name).tolist()) for name in set(found.tolist())}


@needs_mmseqs
def test_proteins_that_share_half_their_residues_and_no_kmer_are_one_cluster() -> None:
    founder = chain(200, 1)
    distant = mutate(founder, 0.5, 2)
    proteins = [founder, distant, chain(200, 3), mutate(distant, 0.3, 4), founder[40:120], founder.lower(), chain(150, 5) + founder]
    found = clusters_by_mmseqs(proteins, "protein", 0.4)
    assert sets(found) == {frozenset({0, 1, 3, 4, 5, 6}), frozenset({2})}, "distant, chained, a fragment, another case, a fusion"
    assert found[3] == 0, "named by the smallest row"
    assert clusters(proteins, "protein", 0.1)[1] != 0, "the k-mers do not see it"
    assert clusters_by_mmseqs(proteins, "protein", 0.9)[1] == 1, "less alike than asked for"


@needs_mmseqs
@pytest.mark.parametrize("modality", ["dna", "rna"])
def test_both_strands_of_nucleotides_are_one_cluster(modality: str) -> None:
    founder = chain(256, 1, "ACGT")
    rows = [founder, mutate(reverse_complement(founder), 0.05, 2, "ACGT"), chain(256, 3, "ACGT"), reverse_complement(founder), "N" * 100]
    if modality == "rna":
        rows = [row.replace("T", "U") for row in rows]
    assert sets(clusters_by_mmseqs(rows, modality, 0.8)) == {frozenset({0, 1, 3}), frozenset({2}), frozenset({4})}  # type: ignore[arg-type]


@needs_mmseqs
def test_the_order_of_the_rows_and_the_number_of_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    families = [mutate(chain(120, family), 0.15 * copy, 10 * family + copy) for family in range(30) for copy in range(5)]
    found = sets(clusters_by_mmseqs(families, "protein", 0.5))
    assert 30 <= len(found) < 150
    order = random.Random(0).sample(range(150), 150)
    turned = clusters_by_mmseqs([families[i] for i in order], "protein", 0.5)
    assert {frozenset(order[i] for i in cluster) for cluster in sets(turned)} == found
    monkeypatch.setattr(mmseqs, "usable_cores", lambda: 1)
    assert sets(clusters_by_mmseqs(families, "protein", 0.5)) == found


@needs_mmseqs
def test_what_shares_kmers_is_one_cluster_even_if_no_alignment_of_it_is_significant() -> None:
    short, plain = "WCDEFGHIK", "KLAKKLAKLAKKLAKLAKKLAK"
    rows = [short, short + "M", plain, plain + "W", chain(60, 1)]
    assert clusters_by_mmseqs(rows, "protein", 0.5).tolist() == clusters(rows, "protein", 0.5).tolist() == [0, 0, 2, 2, 4]


@needs_mmseqs
@pytest.mark.parametrize("rows", [[], [""], ["MKV"], ["MKV", "", "mkv", ""]])
def test_few_short_and_empty_sequences_are_clusters_of_their_own(rows: list[str]) -> None:
    assert clusters_by_mmseqs(rows, "protein", 0.5).tolist() == [0, 1, 0, 3][: len(rows)]


@needs_mmseqs
def test_a_failure_of_the_program_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmseqs, "_OPTIONS", ["--cov-mode", "99"])
    with pytest.raises(ResourceError, match=r"mmseqs easy-cluster failed \(\d+\): .*cov-mode.*set split\.tool: builtin"):
        clusters_by_mmseqs(["MKV" * 9, "AGT" * 9], "protein", 0.5)


def test_without_the_program_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for call in (mmseqs_version, lambda: clusters_by_mmseqs(["MKVA", "MKVL"], "protein", 0.5)):
        with pytest.raises(ResourceError, match=r"no program 'mmseqs' is on the PATH; install it \(apt-get install mmseqs2"):
            call()


def test_what_mmseqs_would_cut_in_silence_is_refused() -> None:
    with pytest.raises(DataError, match=r"record 2 has 70000 residues; MMseqs2 compares up to 65535: cut the sequences"):
        clusters_by_mmseqs(["MKV", "A" * 70_000], "protein", 0.5)
