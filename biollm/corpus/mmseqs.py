"""Clusters of similar sequences by alignment, with MMseqs2 (Steinegger & Söding 2017, Nat Biotechnol 35:1026), where it is installed.

It links proteins that share 30 % of their residues and no 4-mer. It is used when a recipe names it, never because it happens to be there:
a recipe gives the same splits on every machine, or an error.

Single-step clustering and connected components, like our own `clusters`: MMseqs2's default, cascaded and greedy, compares only the
representatives of its clusters after the first step, so that pairs above the threshold may stand in two of them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from biollm.core.alphabets import Modality, canonical
from biollm.core.errors import DataError, ResourceError
from biollm.core.machine import usable_cores
from biollm.corpus.similarity import IntArray, clusters, components, encode, identical_rows

_PROGRAM = "mmseqs"
_COVERAGE = 0.8
# Longer sequences are cut by MMseqs2 without a word.
_MAX_RESIDUES = 65_535
_OPTIONS = [
    "--single-step-clustering", "1", "--cluster-mode", "1", "--max-iterations", "1000000",
    "-c", str(_COVERAGE), "--cov-mode", "1",  # of the target; every pair is seen from both sides, so: of the shorter one
    "-s", "7.5", "--max-seqs", "1000", "--max-seq-len", str(_MAX_RESIDUES), "--createdb-mode", "0", "--shuffle", "0",
]  # fmt: skip
# Without -k nucleotides are looked up by 15-mers, in a table of 8 GiB that takes 24 s to fill; by 12-mers: 134 MiB, 0.4 s.
_PROTEIN, _NUCLEOTIDE = ["--dbtype", "1"], ["--dbtype", "2", "-k", "12"]


def mmseqs_version() -> str:
    """The version of the installed MMseqs2. Raises ResourceError if there is none."""
    return _run("version").strip()


def clusters_by_mmseqs(sequences: Sequence[str] | pl.Series, modality: Modality, identity: float) -> IntArray:
    """The cluster of each sequence: those linked by alignments of at least this identity (0 to 1) over 80 % of the shorter one.

    modality: dna, rna or protein. A superset of what `similarity.clusters` links at a Jaccard index of the same number, which is much
    closer kinship (0.4 of the 4-mers is an identity of about 0.87): alignments of short or repetitive peptides are not significant
    (E-value 0.001) or masked. Of 4,365 peptides split at 0.4 by alignments alone, 16 of 873 in test had a near copy elsewhere.
    As there: equal sequences (for DNA and RNA: also reverse complements) are in one cluster, a cluster is named by its smallest row
    number, and another order of the sequences gives the same clusters under other names. (sequences,) int64.
    Raises ResourceError if MMseqs2 is not installed or fails, DataError for a sequence of over 65,535 residues.
    """
    series = sequences if isinstance(sequences, pl.Series) else pl.Series(list(sequences), dtype=pl.String)
    lengths = series.str.len_bytes().fill_null(0)
    if (longest := int(lengths.to_numpy().max(initial=0))) > _MAX_RESIDUES:
        raise DataError(
            f"record {int(lengths.arg_max() or 0) + 1} has {longest} residues; MMseqs2 compares up to {_MAX_RESIDUES}: "
            "cut the sequences, or set split.tool: builtin"
        )
    near = clusters(series, modality, identity)
    twins = identical_rows(encode(series, modality))
    heads = np.flatnonzero((twins == np.arange(len(twins))) & (lengths.to_numpy() > 0))
    # In the order of their content, and of the two strands the smaller: what MMseqs2 finds then does not depend on the order of the rows.
    spelled = [_spelled(sequence, modality) for sequence in series.gather(heads).to_list()]
    order = sorted(range(len(heads)), key=lambda i: (spelled[i], int(heads[i])))
    pairs = _linked([spelled[i] for i in order], modality, identity) if len(order) > 1 else np.empty((0, 2), dtype=np.int64)
    rows = heads[np.array(order, dtype=np.int64)]
    first, second = rows[pairs[:, 0]], rows[pairs[:, 1]]
    return components(len(series), np.concatenate([near, first]), np.concatenate([np.arange(len(near)), second]))


def _spelled(sequence: str, modality: Modality) -> str:
    return sequence.upper() if modality == "protein" else canonical(sequence.upper().replace("U", "T"))


def _linked(sequences: Sequence[str], modality: Modality, identity: float) -> IntArray:
    """Pairs of numbers of sequences that are in one cluster: (pairs, 2)."""
    with tempfile.TemporaryDirectory(prefix="biollm-") as name:
        folder = Path(name)
        (folder / "x.fasta").write_text("".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
        _run(
            "easy-cluster", str(folder / "x.fasta"), str(folder / "found"), str(folder / "work"), "--min-seq-id", f"{identity:g}",
            *(_PROTEIN if modality == "protein" else _NUCLEOTIDE), "--threads", str(usable_cores()), *_OPTIONS,
        )  # fmt: skip
        table = pl.read_csv(folder / "found_cluster.tsv", separator="\t", has_header=False, schema={"first": pl.Int64, "second": pl.Int64})
    if table["second"].n_unique() != len(sequences):
        raise ResourceError(f"mmseqs gave clusters of {table['second'].n_unique()} sequences for {len(sequences)}; set split.tool: builtin")
    return table.to_numpy()


def _run(*arguments: str) -> str:
    if (program := shutil.which(_PROGRAM)) is None:
        raise ResourceError(
            f"split.tool is mmseqs2, but no program '{_PROGRAM}' is on the PATH; install it (apt-get install mmseqs2, or conda install -c "
            "bioconda mmseqs2), or set split.tool: builtin"
        )
    done = subprocess.run([program, *arguments], capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", f"{done.stdout}\n{done.stderr}").splitlines() if line.strip()]
        raise ResourceError(
            f"mmseqs {arguments[0]} failed ({done.returncode}): {' | '.join(lines[-3:])}; mend that, or set split.tool: builtin"
        )
    return done.stdout
