"""Which sequences resemble each other: exact k-mer sets, MinHash to find the pairs worth comparing, and what follows from the pairs.

Three questions, one machinery:
    near_pairs       pairs whose k-mer sets have a Jaccard index of at least a threshold (found by MinHash, then counted exactly)
    clusters         the connected components of such pairs
    shared_stretch   how much of a row stands, letter by letter, in rows of another part (long exact k-mers)

k-mers that say little are left out of every set: runs of one letter, microsatellites and other low complexity. A row with too few k-mers
left (`KmerPlan.least`) resembles nothing here; exact equality is another question (see duplicates.py).

MinHash is our own kernel. Measured on 200,000 windows of 256 bases, one core, 126 permutations: ours 2.1 s with k-mers made, filtered and
made distinct; rensa 0.5.0: 1.5 s for the last step alone, on hashes (50 M, 400 MB) that have to be made first; datasketch 2.0.0: 44 s.
Also, a library's permutations may change with its version, and what an audit finds must not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biollm.core.alphabets import DOUBLE_STRANDED, Modality
from biollm.corpus import kernels

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_UNKNOWN = 255
_PERMUTATIONS = 126  # divides into bands of 2, 3, 6, 7, 9 and 14
_ROWS_OF_A_BAND = (14, 9, 7, 6, 3, 2, 1)
_RECALL = 0.995
# In a bucket of a band each row is compared with this many rows behind it, in an order that depends on content only. A smaller
# bucket (nearly all) is compared whole; in a larger one, a repeat family, the partners left out are reached through its other bands.
_NEIGHBOURS = 100
# At most so many k-mers of one part are held in a table (12 bytes for each of twice as many slots); of a larger part a hashed sample.
_TABLE_KMERS = 1 << 23


@dataclass(frozen=True)
class KmerPlan:
    """What is compared in a modality.

    short: residues (words for text) of the k-mers whose sets are compared; long: of those that make a stretch, 0 = stretches say nothing;
    least: distinct informative k-mers that a row must have to be compared at all; stretch: share of a row's long k-mers found elsewhere
    from which on the row counts as shared.
    """

    short: int
    long: int
    least: int
    stretch: float


# DNA: two unrelated windows of 256 bases share 0.004 of their 12-mers, a copy with 2 % mutations has a Jaccard index of 0.65.
# Protein: 4-mers, because 3-mers recur by chance in long chains (0.04); a peptide of 10 residues has 7 of them.
# SMILES: spelling is not structure (a ring opens a long common string), so stretches are not counted at all.
PLANS: dict[str, KmerPlan] = {
    "dna": KmerPlan(short=12, long=30, least=20, stretch=0.1),
    "methylated_dna": KmerPlan(short=12, long=30, least=20, stretch=0.1),
    "rna": KmerPlan(short=12, long=30, least=20, stretch=0.1),
    "protein": KmerPlan(short=4, long=12, least=5, stretch=0.25),
    "smiles": KmerPlan(short=6, long=0, least=10, stretch=1.0),
    "text": KmerPlan(short=4, long=13, least=8, stretch=0.1),
}


@dataclass(frozen=True)
class Encoded:
    """Rows of symbols end to end: row i is symbols[offsets[i]:offsets[i + 1]].

    DNA and RNA: A, C, G, T/U = 0..3; protein and SMILES: bytes; text: numbers of words. `unknown` is the symbol that no k-mer may hold.
    """

    symbols: NDArray[Any]
    offsets: IntArray
    modality: str
    unknown: int
    alphabet_size: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def nucleotides(self) -> bool:
        return self.modality in DOUBLE_STRANDED

    def take(self, rows: IntArray) -> Encoded:
        """These rows, in this order."""
        lengths = (self.offsets[1:] - self.offsets[:-1])[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        symbols = np.empty(offsets[-1], dtype=self.symbols.dtype)
        kernels.gather(self.symbols, self.offsets, rows, symbols, offsets)
        return Encoded(symbols, offsets, self.modality, self.unknown, self.alphabet_size)


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows, each once, `first` < `second` in row number, sorted; `similarity` is the exact Jaccard index of their k-mer sets."""

    first: IntArray
    second: IntArray
    similarity: FloatArray

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Stretches:
    """For each row asked about: share of its long k-mers that the other rows hold, and the other row that holds most (-1 = none)."""

    share: FloatArray
    partner: IntArray


def encode(sequences: Sequence[str] | pl.Series, modality: Modality) -> Encoded:
    """Sequences as arrays of symbols. Case is folded where it means nothing; what is no known residue is unknown; null is empty.

    Of text only the words count, in lower case: letters and digits between whatever else.
    """
    series = sequences if isinstance(sequences, pl.Series) else pl.Series(list(sequences), dtype=pl.String)
    if modality == "text":
        return _encode_text(series)
    lengths = series.str.len_bytes().fill_null(0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    symbols = np.frombuffer("".join(series.fill_null("").to_list()).encode(), dtype=np.uint8)
    return Encoded(_TABLES[modality][symbols], offsets, modality, _UNKNOWN, 256)


def near_pairs(encoded: Encoded, threshold: float, parts: IntArray | None = None, plan: KmerPlan | None = None) -> Pairs:
    """Pairs of rows whose sets of short k-mers have a Jaccard index of at least `threshold` (> 0).

    parts: a number for each row; given, only pairs of different parts are sought.
    Every pair given is counted exactly. Of pairs at the threshold at least 99.5 % are found (threshold 0.3 and above), of closer ones
    more. What is found depends on the rows' content only, not on their order. Rows with the same content are all compared with each
    other, so take equal ones out before where there may be many.
    """
    plan = plan or PLANS[encoded.modality]
    hashes, sizes, order_keys = _signatures(encoded, plan)
    rows = _rows_of_a_band(threshold)
    # A pair at the threshold falls short of this many equal values once in 30,000: four standard deviations.
    agreeing = int(_PERMUTATIONS * threshold - 4 * np.sqrt(_PERMUTATIONS * threshold * (1 - threshold)))
    informative = np.flatnonzero(sizes >= plan.least)
    informative = informative[np.lexsort((informative, order_keys[informative]))]
    side = np.zeros(len(encoded), dtype=np.int64) if parts is None else parts
    seen = np.empty(0, dtype=np.uint64)
    found: list[tuple[IntArray, IntArray, FloatArray]] = []
    for band in range(_PERMUTATIONS // rows):
        keys = kernels.band_keys(hashes, informative, band * rows, rows)
        by_key = np.argsort(keys, kind="stable")
        pairs = kernels.bucket_pairs(
            informative[by_key], keys[by_key], hashes, sizes, side, parts is not None, threshold, agreeing, _NEIGHBOURS
        )
        fresh = np.setdiff1d(pairs, seen)
        if len(fresh) == 0:
            continue
        seen = np.union1d(seen, fresh)
        first, second = (fresh >> np.uint64(32)).astype(np.int64), (fresh & np.uint64(0xFFFFFFFF)).astype(np.int64)
        similarity = kernels.jaccards(*_kernel_input(encoded, plan.short), first, second)
        close = similarity >= threshold
        found.append((first[close], second[close], similarity[close]))
    if not found:
        empty = np.empty(0, dtype=np.int64)
        return Pairs(empty, empty, np.empty(0))
    first, second, similarity = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((second, first))
    return Pairs(first[order], second[order], similarity[order])


def clusters(sequences: Sequence[str] | pl.Series, modality: Modality, threshold: float) -> IntArray:
    """The cluster of each sequence: those linked by pairs with a Jaccard index of at least `threshold`, however long the chain.

    Equal sequences (for DNA and RNA: also reverse complements) are in one cluster. A cluster is named by its smallest row number.
    Returns (sequences,) int64; another order of the sequences gives the same clusters under other names.
    """
    encoded = encode(sequences, modality)
    twins = identical_rows(encoded)
    heads = np.flatnonzero(twins == np.arange(len(twins)))
    pairs = near_pairs(encoded.take(heads), threshold)
    return components(
        len(encoded), np.concatenate([twins, heads[pairs.first]]), np.concatenate([np.arange(len(twins)), heads[pairs.second]])
    )


def identical_rows(encoded: Encoded, strands: bool = True) -> IntArray:
    """The smallest row with the same content, for each row; with `strands`, DNA and RNA read from either strand are the same.

    By a 128-bit hash of content and length. A row without a known symbol is like no other.
    """
    both = strands and encoded.nucleotides
    keys, known = kernels.row_keys(encoded.symbols, encoded.offsets, encoded.unknown, both)
    order = np.lexsort((np.arange(len(keys)), keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    starts = np.ones(len(keys), dtype=bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(keys), dtype=np.int64)
    first[order] = order[np.flatnonzero(starts)[np.cumsum(starts) - 1]] if len(keys) else order
    first[~known] = np.flatnonzero(~known)
    return first


def content_hashes(sequences: pl.Series, modality: Modality) -> NDArray[np.uint64]:
    """A 64-bit hash of what each row says, whatever else is in the table: equal for what `identical_rows` calls equal. (rows,)"""
    if modality != "text":
        encoded = encode(sequences, modality)
        return np.asarray(kernels.row_keys(encoded.symbols, encoded.offsets, encoded.unknown, encoded.nucleotides)[0][:, 0])
    said = pl.select(words=_words(sequences).list.join(" "), raw=sequences.fill_null(""))
    texts = said.select(pl.when(pl.col("words") == "").then("raw").otherwise("words")).to_series()
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)


def shared_stretch(encoded: Encoded, asked: IntArray, others: IntArray, plan: KmerPlan | None = None) -> Stretches:
    """How much of each of the rows `asked` stands in the rows `others`, by exact k-mers of `plan.long` residues.

    share: informative long k-mers of the row that occur anywhere in `others`, over all its informative long k-mers (0 if it has fewer
    than `plan.long` / 2: too short or too plain to tell). For more than 8 M k-mers, a hashed sample of them stands for all.
    partner: of the others, the one that is the first (smallest number in `others`' order) to hold most of them.
    """
    plan = plan or PLANS[encoded.modality]
    if not plan.long or not len(asked) or not len(others):
        return Stretches(np.zeros(len(asked)), np.full(len(asked), -1, dtype=np.int64))
    lengths = encoded.offsets[1:] - encoded.offsets[:-1]
    kmers = int(np.maximum(lengths[asked] - plan.long + 1, 0).sum())
    every = 1
    while kmers // every > _TABLE_KMERS:
        every *= 2
    slots = 1 << max(4, int(2 * kmers / every).bit_length())
    share, partner = kernels.stretches(*_kernel_input(encoded, plan.long), asked, others, slots, every, max(1, plan.long // 2 // every))
    return Stretches(share, partner)


def least_distinct(k: int, nucleotides: bool) -> int:
    """How many different 3-mers (of bases) or symbols a k-mer must have to say anything: half of its 3-mers, a third of its symbols.

    Of random 30-mers 1 in 10^4 has fewer than 14 different 3-mers; a repeat of period p has p.
    """
    return (k - 2) // 2 if nucleotides else k // 3 + 1


def _symbol_table(symbols: dict[str, int], folds_case: bool) -> NDArray[np.uint8]:
    table = np.full(256, _UNKNOWN, dtype=np.uint8)
    for letter, symbol in symbols.items():
        for spelling in (letter, letter.lower()) if folds_case else (letter,):
            table[ord(spelling)] = symbol
    return table


_BASES = dict(zip("ACGTU", (0, 1, 2, 3, 3), strict=True))
_TABLES = {
    "dna": _symbol_table(_BASES, folds_case=True),
    "methylated_dna": _symbol_table(_BASES | {"M": 1, "W": 2}, folds_case=True),  # methylated or not, it is the same sequence
    "rna": _symbol_table(_BASES, folds_case=True),
    "protein": _symbol_table({letter: ord(letter) for letter in "ABCDEFGHIJKLMNOPQRSTUVWYZ"}, folds_case=True),  # X is "not known"
    "smiles": _symbol_table({chr(code): code for code in range(33, 127)}, folds_case=False),
}


def _words(series: pl.Series) -> pl.Series:
    return series.fill_null("").str.to_lowercase().str.extract_all(r"[\p{L}\p{N}]+")


def _encode_text(series: pl.Series) -> Encoded:
    words = _words(series)
    offsets = np.concatenate([[0], np.cumsum(words.list.len().to_numpy(), dtype=np.int64)]).astype(np.int64)
    flat = words.explode(empty_as_null=False) if offsets[-1] else pl.Series([], dtype=pl.String)
    # Numbered in alphabetical order: the same words in another order of rows get the same numbers.
    numbers = (flat.rank("dense").to_numpy() - 1).astype(np.uint32) if len(flat) else np.empty(0, dtype=np.uint32)
    size = int(numbers.max()) + 1 if len(numbers) else 1
    return Encoded(numbers, offsets, "text", 0xFFFFFFFF, size)


def _rows_of_a_band(threshold: float) -> int:
    """The longest band that still finds `_RECALL` of the pairs at the threshold: long bands bring few useless candidates."""
    for rows in _ROWS_OF_A_BAND:
        if 1 - (1 - threshold**rows) ** (_PERMUTATIONS // rows) >= _RECALL:
            return rows
    return 1


def _kernel_input(encoded: Encoded, k: int) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
    least = least_distinct(k, encoded.nucleotides)
    return encoded.symbols, encoded.offsets, k, encoded.nucleotides, encoded.unknown, least, encoded.alphabet_size


def _signatures(encoded: Encoded, plan: KmerPlan) -> tuple[NDArray[np.uint32], IntArray, NDArray[np.uint64]]:
    """MinHash values (rows, permutations), distinct informative k-mers (rows,), and a key of each row's set to order rows by."""
    draws = np.random.Generator(np.random.PCG64(20_240_117)).integers(0, 1 << 32, size=(2, _PERMUTATIONS), dtype=np.uint32)
    return kernels.minhash(*_kernel_input(encoded, plan.short), draws[0] | np.uint32(1), draws[1])  # type: ignore[no-any-return]


def components(rows: int, first: IntArray, second: IntArray) -> IntArray:
    """The component of each row under links first[i] ~ second[i], named by its smallest row. (rows,)"""
    parent = np.arange(rows, dtype=np.int64)
    kernels.join(parent, first, second)
    return parent
