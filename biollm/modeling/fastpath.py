"""Ids of strings that are known to be sequences, equal to those of the stock tokenizer.json and many times as fast.

    tables = tables_from_merged(tokenizer_json, domain.model_units, domain.ids)
    ids = SequenceEncoder(tables, fold_case=True).encode(["GATTACA", "ccgg"])

Tables are plain data with the ids of the merged vocabulary; the encoder packs them into arrays once and runs compiled loops over
them, in as many threads as the process has cores.

BPE without merging. Byte-pair encoding is defined by a process (join the pair of lowest rank, the leftmost first), and libraries run
it with a heap, at O(n log n) with the memory of all symbols at once. But its result can be *recognised* locally: a row of tokens is
the encoding of its text exactly if each two neighbours u, v are the encoding of theirs, encode(uv) == [u, v] (Berglund, Martens and
van der Merwe, "Constructing a BPE tokenization DFA", 2024; the Rust crate `bpe` by GitHub builds on it, 2024). The reason: take the
first merge across a border of the row. Until then each token was built as it is on its own, so the same merge comes first in uv too.
Nothing in this asks how the merges were learnt, so it holds for any list of merges. So we go from left to right, try the longest token
that fits its left neighbour, step back where none does, and never enter a position twice: time O(n).
Which tokens fit is worked out once, into a table of bits (4,096 tokens: 2 MiB in 0.1 s; see fill_simple).

Numba and not a package: benchmarks/encode.py has the figures (4,096 tokens, fly DNA). Against `tokenizers` this is 9 to 11 times as fast
on windows of 1 kb and 40 to 55 times on whole chromosomes, with one thread or two. Of the fast packages built from the same
tokenizer.json, tiktoken and kitoken have the right ids but take 6 times as long as this on windows; tokie takes 1.6 times as long and
has wrong ids on every whole chromosome. None of them takes a domain out of a merged tokenizer. The price is half a second at first
use in a process, and 6 s for compiling in a new installation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from biollm.core.errors import ConfigError
from biollm.core.machine import usable_cores
from biollm.modeling.fastpath_loops import (
    FOREIGN,
    SIMPLE,
    UNREACHABLE,
    Codes,
    Ints,
    derive,
    encode_bpe,
    encode_greedy,
    encode_kmers,
    encode_unigram,
    fill_pairs,
    fill_simple,
    fill_tangled,
    translate,
)
from biollm.modeling.sequence_tables import MOST_BPE_TOKENS, BpeTables, GreedyTables, KmerTables, Tables, UnigramTables

# Below this many residues a second thread costs more than it saves.
_RESIDUES_PER_THREAD = 100_000


class ForeignLetterError(ValueError):
    """A sequence holds something that the tables have no token for; the caller knows the sequence's name and says so to the user.

    sequence: its index in the call; position: 0-based; letter: the letter, or the k-mer, as it was written.
    """

    def __init__(self, sequence: int, position: int, letter: str) -> None:
        super().__init__(f"sequence number {sequence} holds {letter!r} at position {position + 1}")
        self.sequence, self.position, self.letter = sequence, position, letter


class SequenceEncoder:
    """Encodes sequences by tables. Safe to share between threads; equal calls give equal ids, whatever `threads` is.

    fold_case: lower-case letters are read as the upper-case residues, where they are no residues themselves.
    threads: how many to use at most (None: the cores of this process).
    """

    def __init__(self, tables: Tables, *, fold_case: bool, threads: int | None = None) -> None:
        residues = "".join(_residues(tables))
        self._packed = _pack(tables, residues)
        self._bytes = _byte_table(residues, fold_case)
        self._threads = threads
        self._residue = {letter: residues[code] for letter, code in zip(map(chr, range(256)), self._bytes, strict=True) if code != FOREIGN}
        self._whole = dict(tables.whole_tokens) if isinstance(tables, BpeTables) else {}
        self._longest_whole = max(map(len, self._whole), default=0)

    def encode_one(self, sequence: str) -> Ints:
        """The ids of one sequence, (T,) int64. Raises ForeignLetterError (of sequence 0)."""
        return self.encode([sequence])[0]

    def encode(self, sequences: Sequence[str]) -> list[Ints]:
        """The ids of each sequence, (T,) int64, without special tokens; an empty sequence has none.

        Raises ForeignLetterError for the first letter without a token.
        """
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        threads = self._threads or usable_cores()
        parts = _parts(lengths, max(1, min(threads, int(lengths.sum()) // _RESIDUES_PER_THREAD)))
        if len(parts) == 1:
            found = self._encode(sequences, 0)
        else:
            with ThreadPoolExecutor(len(parts)) as pool:
                shares = pool.map(lambda part: self._encode(sequences[part.start : part.stop], part.start), parts)
                found = [ids for share in shares for ids in share]
        if self._whole:
            self._replace_whole(sequences, lengths, found)
        return found

    def _encode(self, sequences: Sequence[str], first: int) -> list[Ints]:
        joined = "".join(sequences)
        starts = np.zeros(len(sequences) + 1, dtype=np.int64)
        np.cumsum([len(sequence) for sequence in sequences], out=starts[1:])
        try:
            letters = np.frombuffer(joined.encode("ascii"), dtype=np.uint8)
            codes = np.empty_like(letters)
            foreign = translate(letters, self._bytes, codes)
        except UnicodeEncodeError as error:
            # a foreign ASCII letter may stand before it
            head = np.frombuffer(joined[: error.start].encode("ascii"), dtype=np.uint8)
            foreign = translate(head, self._bytes, np.empty_like(head))
            foreign = error.start if foreign < 0 else foreign
        width = 1
        if foreign < 0:
            width = self._packed.reach
            out = np.empty(len(joined), dtype=np.int64)
            bounds, foreign = self._packed.run(codes, starts, out)
        if foreign >= 0:
            which = int(np.searchsorted(starts, foreign, side="right")) - 1
            letter = joined[foreign : min(foreign + width, int(starts[which + 1]))]
            raise ForeignLetterError(first + which, int(foreign - starts[which]), letter)
        # Copies: a view would keep the ids of all the other sequences alive.
        return [out[a:b].copy() for a, b in pairwise(bounds.tolist())]

    def _replace_whole(self, sequences: Sequence[str], lengths: Ints, found: list[Ints]) -> None:
        for i in np.flatnonzero(lengths <= self._longest_whole).tolist():
            if (number := self._whole.get("".join(self._residue[letter] for letter in sequences[i]))) is not None:
                found[i] = np.array([number], dtype=np.int64)


def _residues(tables: Tables) -> list[str]:
    """The single residues, sorted. Raises ConfigError for letters that are no ASCII."""
    if isinstance(tables, BpeTables):
        letters = set(tables.residue_ids)
    elif isinstance(tables, GreedyTables):
        letters = set().union(*tables.initial, *tables.continuing)
    elif isinstance(tables, KmerTables):
        letters = set(tables.residues)
    else:
        letters = set().union(*tables.tokens)
    if strange := sorted(letter for letter in letters if not letter.isascii() or len(letter) != 1):
        raise ConfigError(f"the fast path reads residues of one ASCII letter; this vocabulary has {strange[0]!r}: use the stock tokenizer")
    return sorted(letters)


def _byte_table(residues: str, fold_case: bool) -> Codes:
    table = np.full(256, FOREIGN, dtype=np.uint8)
    for code, residue in enumerate(residues):
        if fold_case:
            table[ord(residue.lower())] = code
    for code, residue in enumerate(residues):
        table[ord(residue)] = code
    return table


def _parts(lengths: Ints, count: int) -> list[range]:
    """Sequences in `count` runs of about as many residues each; fewer where sequences are long."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    cuts = [0, *(int(np.searchsorted(ends, total * i / count)) + 1 for i in range(1, count)), len(lengths)]
    return [range(a, b) for a, b in pairwise(cuts) if a < b] or [range(0)]


class _Packed(NamedTuple):
    """A compiled loop and the arrays that it reads. reach: how many letters an unknown place covers."""

    loop: Any
    arrays: tuple[Any, ...]
    reach: int = 1

    def run(self, codes: Codes, starts: Ints, out: Ints) -> tuple[Ints, int]:
        """Write the ids of all sequences into `out`. Returns bounds, and the first unknown place or -1.

        The ids of sequence i are out[bounds[i] : bounds[i + 1]].
        """
        bounds = np.zeros_like(starts)
        return bounds, int(self.loop(codes, starts, *self.arrays, out, bounds))


def _pack(tables: Tables, residues: str) -> _Packed:
    if isinstance(tables, BpeTables):
        return _pack_bpe(tables, residues)
    code = {residue: i for i, residue in enumerate(residues)}

    def spelt(tokens: Mapping[str, Any]) -> list[list[int]]:
        return [[code[residue] for residue in token] for token in tokens]

    if isinstance(tables, UnigramTables):
        ids = np.array([i for i, _ in tables.tokens.values()], dtype=np.int64)
        scores = np.array([score for _, score in tables.tokens.values()], dtype=np.float64)
        return _Packed(encode_unigram, (*_trie([spelt(tables.tokens)], len(residues)), ids, scores, tables.piece_residues or 0))
    unknown = -1 if tables.unknown_id is None else tables.unknown_id
    if isinstance(tables, KmerTables):
        ids = np.array(list(tables.tokens.values()), dtype=np.int64)
        trie = _trie([spelt(tables.tokens)], len(residues))
        return _Packed(encode_kmers, (*trie, ids, unknown, tables.k, 1 if tables.overlapping else tables.k), tables.k)
    ids = np.array([*tables.initial.values(), *tables.continuing.values()], dtype=np.int64)
    trie = _trie([spelt(tables.initial), spelt(tables.continuing)], len(residues))
    return _Packed(encode_greedy, (*trie, ids, unknown, tables.piece_residues), tables.piece_residues)


def _trie(groups: Sequence[Sequence[Sequence[int]]], letters: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """child (nodes, letters), 0 = none; token (nodes,), -1 = none. Each group has a root of its own: node 0, node 1, …

    Tokens are numbered through the groups; an empty one is left out.
    """
    children: list[dict[int, int]] = [{} for _ in groups]
    tokens: dict[int, int] = {}
    number = -1
    for root, group in enumerate(groups):
        for spelling in group:
            number += 1
            node = root
            for letter in spelling:
                if letter not in children[node]:
                    children[node][letter] = len(children)
                    children.append({})
                node = children[node][letter]
            if spelling:
                tokens[node] = number
    child = np.zeros((len(children), letters), dtype=np.int32)
    for node, below in enumerate(children):
        for letter, deeper in below.items():
            child[node, letter] = deeper
    token = np.full(len(children), -1, dtype=np.int32)
    token[list(tokens)] = list(tokens.values())
    return child, token


def _pack_bpe(tables: BpeTables, residues: str) -> _Packed:
    spelling = _spellings({tables.residue_ids[residue]: residue for residue in residues}, tables.merges)
    if len(spelling) > MOST_BPE_TOKENS:
        raise ConfigError(
            f"{len(spelling)} BPE tokens; the fast path knows for {MOST_BPE_TOKENS} at most which fit together: lower tokenizer.vocab_size"
        )
    code = {residue: i for i, residue in enumerate(residues)}
    number = {i: n for n, i in enumerate(spelling)}  # as merges are learnt; the residues come first
    parts = np.array([[number[i] for i in merge] for merge in tables.merges if merge[2] in number], dtype=np.int64).reshape(-1, 3)
    texts = [[code[residue] for residue in text] for text in spelling.values()]
    text, start = np.array([c for codes in texts for c in codes], dtype=np.int64), np.cumsum([0, *map(len, texts)])
    pairs = _hash_pairs(parts, len(texts))
    kind, last = derive(text, start, pairs, parts)
    # From here on only tokens that come up, in the order of their spelling: those that one position may begin with are neighbours.
    kept = sorted((n for n in range(len(texts)) if kind[n] != UNREACHABLE), key=texts.__getitem__)
    fits = _fitting_pairs(np.array(kept), text, start, pairs, parts, kind, last)
    child, token = _trie([[texts[n] for n in kept]], len(residues))
    length = np.array([len(texts[n]) for n in kept], dtype=np.int32)
    shorter = _shorter([texts[n] for n in kept])
    numbers = list(spelling)
    ids = np.array([numbers[n] for n in kept], dtype=np.int64)
    return _Packed(encode_bpe, (child, token, shorter, length, fits, ids, tables.piece_residues or 0))


def _shorter(texts: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    """For each of some texts in order the longest other one that it begins with, or -1."""
    shorter = np.full(len(texts), -1, dtype=np.int32)
    for n, text in enumerate(texts):
        before = n - 1
        while before >= 0 and text[: len(texts[before])] != texts[before]:
            before = int(shorter[before])
        shorter[n] = before
    return shorter


def _fitting_pairs(kept: Ints, text: Ints, start: Ints, pairs: Ints, parts: Ints, kind: Ints, last: Ints) -> NDArray[np.uint64]:
    """Which tokens may stand side by side: bit v of row u says whether the encoding of the text of u and v is [u, v].

    kept: the tokens in question, renumbered by their place in it. Of shape (kept, ceil(kept / 64)).
    """
    new = np.full(len(kind), -1, dtype=np.int64)
    new[kept] = np.arange(len(kept))
    merged = last[kept] >= 0
    left, right = np.full(len(kept), -1), np.full(len(kept), -1)
    left[merged], right[merged] = new[parts[last[kept][merged], 0]], new[parts[last[kept][merged], 1]]
    usable = (new[parts] >= 0).all(axis=1)
    rules = np.column_stack([new[parts[usable, :2]], np.flatnonzero(usable)])
    rules = rules[np.argsort(rules[:, 0], kind="stable")]
    below: list[list[int]] = [[] for _ in kept]
    for token in np.flatnonzero(merged).tolist():
        below[right[token]].append(token)
    order, waiting = [], [(token, 0) for token in np.flatnonzero(~merged).tolist()]
    while waiting:
        token, depth = waiting.pop()
        if kind[kept[token]] == SIMPLE:  # what a tangled token is part of is tangled too
            order.append((token, depth))
            waiting += [(longer, depth + 1) for longer in below[token]]
    by_length = np.argsort(np.diff(start)[kept], kind="stable")
    simple = kind[kept] == SIMPLE
    fits = np.zeros((len(kept), len(kept) // 64 + 1), dtype=np.uint64)
    fill_simple(np.array(order), by_length[simple[by_length]], last[kept], left, rules, fits)
    fill_tangled(np.flatnonzero(~simple), kept, text, start, pairs, parts, fits)
    return fits


def _spellings(spelling: dict[int, str], merges: Sequence[tuple[int, int, int]]) -> dict[int, str]:
    """The residues of each token that merges can make, by id; those of `spelling` first. A merge may stand before those of its parts.

    Raises ConfigError if two ids would have the same residues.
    """
    spelling, waiting = dict(spelling), list(merges)
    while True:
        left_over = []
        for merge in waiting:
            left, right, merged = merge
            if left in spelling and right in spelling:
                text = spelling[left] + spelling[right]
                if spelling.setdefault(merged, text) != text:
                    raise ConfigError(f"BPE merges make id {merged} of {spelling[merged]!r} and of {text!r}; an id is one token")
            else:
                left_over.append(merge)
        if len(left_over) == len(waiting):
            break
        waiting = left_over
    if len(set(spelling.values())) < len(spelling):
        raise ConfigError("BPE merges make one token under two ids; a token has one id")
    return spelling


def _hash_pairs(parts: Ints, tokens: int) -> Ints:
    """An open hash table from pairs of tokens to ranks. parts: (merges, 3), in order of rank; the last of equal pairs stays.

    An entry: pair << 24 | rank, or -1.
    """
    size = 1 << max(4, (4 * len(parts)).bit_length())
    return fill_pairs(parts, np.full(size + 1, -1, dtype=np.int64), tokens)
