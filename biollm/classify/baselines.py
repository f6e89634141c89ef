"""Features that need no language model: what every adapted model has to beat."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

from biollm.classify.metrics import FloatArray, IntArray
from biollm.core.alphabets import Modality, reverse_complement
from biollm.core.errors import ConfigError
from biollm.core.seeding import generator

DEFAULT_K: dict[Modality, int] = {"dna": 4, "methylated_dna": 4, "rna": 4, "protein": 2, "smiles": 3, "text": 3}
# Wider one-hot and k-mer tables would be slower to fit than the language model's embeddings.
POSITIONAL_COLUMNS = 2048
_KMER_COLUMNS = 8192
_HASHED_COLUMNS = 2048
_LETTERS: dict[Modality, str] = {"dna": "ACGT", "methylated_dna": "ACGTMW", "rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}
_NOT_A_LETTER = 255
_NAMED_GRAMS = 3


def kmer_frequencies(sequences: list[str], k: int, modality: Modality = "dna") -> FloatArray:
    """Share of each k-mer in each sequence, (sequences, columns) in float64; `kmer_names` names the columns.

    DNA: a k-mer and its reverse complement share a column (136 columns for k = 4), because a window may be read from either strand.
    RNA, methylated DNA and protein: one column for each k-mer of the standard letters. k-mers with any other letter are not counted.
    SMILES and text: k-grams of characters, hashed into 2,048 columns (equal on every machine; different k-grams may share one).
    A sequence without a countable k-mer gives a row of zeros. Raises ConfigError if k makes more than 8,192 columns.
    """
    if modality not in _LETTERS:
        return np.asarray(_hasher(k).transform(sequences).toarray(), dtype=np.float64)
    letters = _LETTERS[modality]
    _check_width(k, modality)
    codes_of = np.full(256, _NOT_A_LETTER, dtype=np.uint8)
    codes_of[np.frombuffer(letters.encode(), dtype=np.uint8)] = np.arange(len(letters))
    column_of_code, columns = _canonical_columns(k) if modality == "dna" else (np.arange(len(letters) ** k), len(letters) ** k)
    place_values = len(letters) ** np.arange(k - 1, -1, -1)
    table = np.zeros((len(sequences), columns))
    for row, sequence in zip(table, sequences, strict=True):
        codes = codes_of[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)]
        if len(codes) < k:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(codes, k)
        countable = windows[(windows != _NOT_A_LETTER).all(axis=1)]
        counts = np.bincount(column_of_code[countable @ place_values], minlength=columns)
        row[:] = counts / max(1, counts.sum())
    return table


def kmer_names(k: int, modality: Modality = "dna") -> list[str]:
    """The columns of `kmer_frequencies`; of SMILES and text numbers only, see `hashed_kmer_names`.

    >>> kmer_names(1), kmer_names(1, "rna"), kmer_names(2)[:2]
    (['A/T', 'C/G'], ['A', 'C', 'G', 'U'], ['AA/TT', 'AC/GT'])
    """
    if modality not in _LETTERS:
        return [f"{k}-gram bucket {i}" for i in range(_HASHED_COLUMNS)]
    _check_width(k, modality)
    spelled = ["".join(letters) for letters in product(_LETTERS[modality], repeat=k)]
    if modality != "dna":
        return spelled
    canonical = [kmer for kmer in spelled if kmer <= reverse_complement(kmer)]
    return [kmer if kmer == reverse_complement(kmer) else f"{kmer}/{reverse_complement(kmer)}" for kmer in canonical]


def hashed_kmer_names(k: int, sequences: list[str]) -> list[str]:
    """The columns of `kmer_frequencies` of SMILES and text, by the k-grams of these sequences that share each, the most frequent first.

    >>> names = hashed_kmer_names(3, ["CC(=O)CC(", "CC("])
    >>> sorted(name for name in names if "bucket" not in name)
    ["'(=O'", "')CC'", "'=O)'", "'C(='", "'CC('", "'O)C'"]
    """
    hasher = _hasher(k)
    cut = hasher.build_analyzer()
    counts = Counter(gram for sequence in sequences for gram in cut(sequence))
    names = kmer_names(k, "text")
    shared: dict[int, list[str]] = {}
    grams = [gram for gram, _ in counts.most_common()]
    # A text as long as one k-gram has one column.
    for gram, column in zip(grams, hasher.transform(grams).indices.tolist() if grams else [], strict=True):
        shared.setdefault(column, []).append(repr(gram))
    for column, found in shared.items():
        more = f" and {len(found) - _NAMED_GRAMS} others" if len(found) > _NAMED_GRAMS else ""
        names[column] = ", ".join(found[:_NAMED_GRAMS]) + more
    return names


def _hasher(k: int) -> HashingVectorizer:
    return HashingVectorizer(
        analyzer="char", ngram_range=(k, k), n_features=_HASHED_COLUMNS, norm="l1", alternate_sign=False, lowercase=False
    )


def _check_width(k: int, modality: Modality) -> None:
    if len(_LETTERS[modality]) ** k > _KMER_COLUMNS:
        largest = max(i for i in range(1, 7) if len(_LETTERS[modality]) ** i <= _KMER_COLUMNS)
        raise ConfigError(
            f"classify.kmer is {k}, which makes {len(_LETTERS[modality]) ** k:,} columns for {modality}; "
            f"expected at most {largest}; lower it"
        )


def positional_letters(sequences: list[str], modality: Modality) -> tuple[int, str] | str:
    """The length and letters of a one-hot table by position, or the reason why there is none."""
    lengths = {len(sequence) for sequence in sequences}
    if len(lengths) != 1:
        return f"sequences are {min(lengths)} to {max(lengths)} long; one length is needed"
    letters = _LETTERS.get(modality)
    if letters is None:
        return f"positions of {modality} have no fixed meaning"
    length = lengths.pop()
    if not 0 < length * len(letters) <= POSITIONAL_COLUMNS:
        return (
            f"{length} positions of {len(letters)} letters make {length * len(letters):,} columns; at most {POSITIONAL_COLUMNS:,} are used"
        )
    return length, letters


def positional_one_hot(sequences: list[str], length: int, letters: str) -> FloatArray:
    """(sequences, length * letters) 1 where a letter stands at a position; other letters are all zeros. All sequences are `length` long."""
    table = np.zeros((len(sequences), length, len(letters)))
    for row, sequence in zip(table, sequences, strict=True):
        codes = np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)
        row[:] = codes[:, None] == np.frombuffer(letters.encode(), dtype=np.uint8)
    return table.reshape(len(sequences), length * len(letters))


def positional_names(length: int, letters: str) -> list[str]:
    return [f"{letter} at {i + 1}" for i in range(length) for letter in letters]


def random_vectors(sequences: list[str], dimensions: int, seed: int) -> FloatArray:
    """(sequences, dimensions) standard normal numbers drawn from the sequence: equal sequences have equal ones, others independent ones.

    What a head makes of as many columns that know nothing. If it scores above chance, sequences stand on both sides of the split.
    """
    of_sequence = {sequence: generator(seed, "random embedding", sequence).standard_normal(dimensions) for sequence in set(sequences)}
    return np.stack([of_sequence[sequence] for sequence in sequences])


def _canonical_columns(k: int) -> tuple[IntArray, int]:
    """The column of each of the 4^k codes (base-4 numbers, A = 0 … T = 3), and the number of columns."""
    codes = np.arange(4**k)
    reverse = np.zeros_like(codes)
    rest = codes
    for _ in range(k):
        rest, base = np.divmod(rest, 4)
        reverse = reverse * 4 + (3 - base)
    kept, columns = np.unique(np.minimum(codes, reverse), return_inverse=True)
    return columns.astype(np.int64), len(kept)
