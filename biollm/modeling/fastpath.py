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
Which tokens fit is worked out once, into a table of bits (4,096 tokens: 2 MiB in 0.1 s; see _fill_simple).

Numba and not a package: benchmarks/encode.py has the figures (4,096 tokens, fly DNA). Against `tokenizers` this is 9 to 11 times as fast
on windows of 1 kb and 40 to 55 times on whole chromosomes, with one thread or two. Of the fast packages built from the same
tokenizer.json, tiktoken and kitoken have the right ids but take 6 times as long as this on windows; tokie takes 1.6 times as long and
has wrong ids on every whole chromosome. None of them takes a domain out of a merged tokenizer. The price is half a second at first
use in a process, and 6 s for compiling in a new installation.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from biollm.core.errors import ConfigError
from biollm.core.machine import usable_cores

Ints = NDArray[np.int64]
Codes = NDArray[np.uint8]
Tokens = NDArray[np.int32]
Bits = NDArray[np.uint64]
P = ParamSpec("P")
R = TypeVar("R")

_FOREIGN = 255
_NEVER = (1 << 31) - 1  # a rank above all ranks
_RANK_BITS = 24
_MOST_TOKENS = 1 << 14  # 32 MiB of bits, a second to fill them
# Below this many residues a second thread costs more than it saves.
_RESIDUES_PER_THREAD = 100_000


# --- tables: what a tokenizer says, as plain data ----------------------------------------------------------------------------


@dataclass(frozen=True)
class BpeTables:
    """Byte-pair encoding over residues.

    residue_ids: the id of each single residue. merges: (left id, right id, merged id) in order of rank; of a pair that stands there
    twice the last counts, as in `tokenizers`. whole_tokens: tokens by their residues that a sequence becomes if it is exactly that
    token, whatever the merges say (`ignore_merges` of tokenizer.json); empty if there is no such rule.
    """

    residue_ids: Mapping[str, int]
    merges: Sequence[tuple[int, int, int]]
    whole_tokens: Mapping[str, int]
    piece_residues: int | None = None


@dataclass(frozen=True)
class GreedyTables:
    """WordPiece: each piece of `piece_residues` residues is read from the left, the longest token first.

    initial: tokens at the start of a piece; continuing: those behind. A piece that cannot be read is the one token `unknown_id`.
    """

    initial: Mapping[str, int]
    continuing: Mapping[str, int]
    unknown_id: int | None
    piece_residues: int


@dataclass(frozen=True)
class UnigramTables:
    """Unigram: the tokens whose scores (log-probabilities) have the largest sum. tokens: residues -> (id, score)."""

    tokens: Mapping[str, tuple[int, float]]
    piece_residues: int | None = None


@dataclass(frozen=True)
class KmerTables:
    """Words of k residues: side by side, the last one what is left; or overlapping, one at each residue.

    tokens: the dictionary; a word of `residues` that it lacks is `unknown_id`.
    """

    k: int
    residues: str
    tokens: Mapping[str, int]
    unknown_id: int | None
    overlapping: bool = False


Tables = BpeTables | GreedyTables | UnigramTables | KmerTables


class ForeignLetterError(ValueError):
    """A sequence holds something that the tables have no token for; the caller knows the sequence's name and says so to the user.

    sequence: its index in the call; position: 0-based; letter: the letter, or the k-mer, as it was written.
    """

    def __init__(self, sequence: int, position: int, letter: str) -> None:
        super().__init__(f"sequence number {sequence} holds {letter!r} at position {position + 1}")
        self.sequence, self.position, self.letter = sequence, position, letter


# --- tables from a tokenizer.json ---------------------------------------------------------------------------------------------


def tables_from_domain(
    tokenizer_json: Mapping[str, Any],
    id_map: Mapping[int, int] | None,
    residues: str,
    *,
    piece_residues: int | None = None,
    kmer: int | None = None,
    overlapping: bool = False,
) -> Tables:
    """The tables of a domain tokenizer over plain residue letters, with ids as `id_map` translates them (None: as they are).

    piece_residues, kmer, overlapping: as domain.json says. The normaliser is not looked at: case is the encoder's affair.
    Raises ConfigError for a model, or a use of it, that the fast path does not know.
    """
    model, place = tokenizer_json["model"], "the domain tokenizer"
    _check_model(model, place)

    def mapped(number: int) -> int | None:
        return number if id_map is None else id_map.get(number)

    if model["type"] == "WordLevel":
        if kmer is None:
            raise ConfigError(f"{place} is a WordLevel model without 'kmer'; its domain.json says how many residues a word has")
        words = {t: i for t, n in model["vocab"].items() if set(t) <= set(residues) and (i := mapped(n)) is not None}
        unknown = model["vocab"].get(model["unk_token"])
        return KmerTables(kmer, residues, words, None if unknown is None else mapped(unknown), overlapping)
    vocabulary = {token: (i, score) for token, n, score in _vocabulary(model) if (i := mapped(n)) is not None}
    return _tables(model, vocabulary, {residue: residue for residue in residues}, piece_residues, place)


def tables_from_merged(
    tokenizer_json: Mapping[str, Any], units: Mapping[str, str], ids: range, *, piece_residues: int | None = None
) -> Tables:
    """The tables of one domain of a merged tokenizer.json.

    units: residue -> its unit as the model's vocabulary spells it; ids: the domain's, its scaffold included. Tokens that are no row
    of whole units (the scaffold, all base tokens) and merges that build a unit are left out.
    Raises ConfigError for a model that the fast path does not know, or one that lacks the token of a residue.
    """
    model, place = tokenizer_json["model"], "the merged tokenizer"
    _check_model(model, place)
    vocabulary = {token: (i, score) for token, i, score in _vocabulary(model) if i in ids}
    if model["type"] == "WordPiece" and (unknown := model["vocab"].get(model["unk_token"])) is not None:
        vocabulary[model["unk_token"]] = (unknown, 0.0)
    return _tables(model, vocabulary, units, piece_residues, place)


def _check_model(model: Mapping[str, Any], place: str) -> None:
    kind = model["type"]
    if kind not in ("BPE", "WordPiece", "Unigram", "WordLevel"):
        raise ConfigError(f"{place} is a {kind} model; the fast path reads BPE, WordPiece, Unigram and WordLevel")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if kind == "BPE" else ():
        if model.get(option):
            raise ConfigError(f"{place} has {option} {model[option]!r}; the fast path reads BPE without it: use the stock tokenizer")


def _vocabulary(model: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """Token, id and score (0 but for Unigram) of each entry but Unigram's unknown one."""
    if model["type"] == "Unigram":
        return [(token, i, score) for i, (token, score) in enumerate(model["vocab"]) if i != model["unk_id"]]
    return [(token, i, 0.0) for token, i in model["vocab"].items()]


def _tables(
    model: Mapping[str, Any], vocabulary: Mapping[str, tuple[int, float]], units: Mapping[str, str], piece_residues: int | None, place: str
) -> Tables:
    """vocabulary: token -> (id, score), of one domain; units: residue -> how the vocabulary spells it."""
    kind = model["type"]
    read = _Reader(units)
    prefix = (model.get("continuing_subword_prefix") or "") if kind == "WordPiece" else ""
    spelt: dict[str, str] = {}  # token -> residues, of those that are a row of whole units
    plain: dict[str, tuple[int, float]] = {}
    continuing: dict[str, tuple[int, float]] = {}
    for token, entry in vocabulary.items():
        follows = bool(prefix) and token.startswith(prefix)
        if residues := read(token[len(prefix) :] if follows else token):
            spelt[token] = residues
            (continuing if follows else plain)[residues] = entry
    if lacking := [residue for residue in units if residue not in plain]:
        raise ConfigError(f"{place} has no token for the single residue {lacking[0]!r}; the fast path needs one for each")
    ids = {residues: i for residues, (i, _) in plain.items()}
    if kind == "BPE":
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        known = ((spelt[left], spelt[right]) for left, right in pairs if left in spelt and right in spelt and left + right in spelt)
        merges = [(ids[left], ids[right], ids[left + right]) for left, right in known]
        whole = ids if model.get("ignore_merges") else {}
        return BpeTables({residue: ids[residue] for residue in units}, merges, whole, piece_residues)
    if kind == "Unigram":
        return UnigramTables(plain, piece_residues)
    longest = model["max_input_chars_per_word"] // max(map(len, units.values()))
    if piece_residues is None or piece_residues > longest:
        raise ConfigError(
            f"{place} is a WordPiece model that reads words of {longest} residues at most, and its sequences are cut into pieces of "
            f"{piece_residues}; give the piece_residues of its sidecar"
        )
    unknown = vocabulary.get(model["unk_token"])
    return GreedyTables(ids, {residues: i for residues, (i, _) in continuing.items()}, unknown[0] if unknown else None, piece_residues)


class _Reader:
    """Reads a token as residues; "" if it is no row of whole units."""

    def __init__(self, units: Mapping[str, str]) -> None:
        self.residue = {unit: residue for residue, unit in units.items()}
        alternatives = "|".join(re.escape(unit) for unit in sorted(self.residue, key=len, reverse=True))
        self.unit, self.row = re.compile(alternatives), re.compile(f"(?:{alternatives})+")

    def __call__(self, token: str) -> str:
        return "".join(self.residue[unit] for unit in self.unit.findall(token)) if self.row.fullmatch(token) else ""


# --- the encoder --------------------------------------------------------------------------------------------------------------


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
        self._residue = {letter: residues[code] for letter, code in zip(map(chr, range(256)), self._bytes, strict=True) if code != _FOREIGN}
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
            foreign = _translate(letters, self._bytes, codes)
        except UnicodeEncodeError as error:
            # a foreign ASCII letter may stand before it
            head = np.frombuffer(joined[: error.start].encode("ascii"), dtype=np.uint8)
            foreign = _translate(head, self._bytes, np.empty_like(head))
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
    table = np.full(256, _FOREIGN, dtype=np.uint8)
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
        return _Packed(_encode_unigram, (*_trie([spelt(tables.tokens)], len(residues)), ids, scores, tables.piece_residues or 0))
    unknown = -1 if tables.unknown_id is None else tables.unknown_id
    if isinstance(tables, KmerTables):
        ids = np.array(list(tables.tokens.values()), dtype=np.int64)
        trie = _trie([spelt(tables.tokens)], len(residues))
        return _Packed(_encode_kmers, (*trie, ids, unknown, tables.k, 1 if tables.overlapping else tables.k), tables.k)
    ids = np.array([*tables.initial.values(), *tables.continuing.values()], dtype=np.int64)
    trie = _trie([spelt(tables.initial), spelt(tables.continuing)], len(residues))
    return _Packed(_encode_greedy, (*trie, ids, unknown, tables.piece_residues), tables.piece_residues)


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
    if len(spelling) > _MOST_TOKENS:
        raise ConfigError(f"{len(spelling)} BPE tokens; the fast path knows for {_MOST_TOKENS} at most which fit together")
    code = {residue: i for i, residue in enumerate(residues)}
    number = {i: n for n, i in enumerate(spelling)}  # as merges are learnt; the residues come first
    parts = np.array([[number[i] for i in merge] for merge in tables.merges if merge[2] in number], dtype=np.int64).reshape(-1, 3)
    texts = [[code[residue] for residue in text] for text in spelling.values()]
    text, start = np.array([c for codes in texts for c in codes], dtype=np.int64), np.cumsum([0, *map(len, texts)])
    pairs = _hash_pairs(parts, len(texts))
    kind, last = _derive(text, start, pairs, parts)
    # From here on only tokens that come up, in the order of their spelling: those that one position may begin with are neighbours.
    kept = sorted((n for n in range(len(texts)) if kind[n] != _UNREACHABLE), key=texts.__getitem__)
    fits = _fitting_pairs(np.array(kept), text, start, pairs, parts, kind, last)
    child, token = _trie([[texts[n] for n in kept]], len(residues))
    length = np.array([len(texts[n]) for n in kept], dtype=np.int32)
    shorter = _shorter([texts[n] for n in kept])
    numbers = list(spelling)
    ids = np.array([numbers[n] for n in kept], dtype=np.int64)
    return _Packed(_encode_bpe, (child, token, shorter, length, fits, ids, tables.piece_residues or 0))


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
        if kind[kept[token]] == _SIMPLE:  # what a tangled token is part of is tangled too
            order.append((token, depth))
            waiting += [(longer, depth + 1) for longer in below[token]]
    by_length = np.argsort(np.diff(start)[kept], kind="stable")
    simple = kind[kept] == _SIMPLE
    fits = np.zeros((len(kept), len(kept) // 64 + 1), dtype=np.uint64)
    _fill_simple(np.array(order), by_length[simple[by_length]], last[kept], left, rules, fits)
    _fill_tangled(np.flatnonzero(~simple), kept, text, start, pairs, parts, fits)
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
    return _fill_pairs(parts, np.full(size + 1, -1, dtype=np.int64), tokens)


# --- compiled loops -----------------------------------------------------------------------------------------------------------

_UNREACHABLE, _SIMPLE, _TANGLED = 0, 1, 2


def _compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compiled at the first call, which takes seconds, and kept beside this file (or under NUMBA_CACHE_DIR) for later runs.

    Where no such folder can be written, each process compiles for itself. Other threads of Python run beside a compiled loop.
    """
    try:
        return cast(Callable[P, R], numba.njit(function, nogil=True, cache=True))
    except RuntimeError:  # numba: "no locator available", it found no folder to write to
        return cast(Callable[P, R], numba.njit(function, nogil=True))


@_compiled
def _translate(letters: Codes, table: Codes, codes: Codes) -> int:
    """Letters to codes; the place of the first that has none, or -1."""
    for i in range(len(letters)):
        codes[i] = table[letters[i]]
        if codes[i] == _FOREIGN:
            return i
    return -1


@_compiled
def _slot(pair: int, pairs: Ints) -> int:
    """Where a pair stands in the hash table, or the free place where it would. The last entry of `pairs` holds the number of tokens."""
    mask = len(pairs) - 2
    at = ((pair * 0x9E3779B97F4A7C1) >> 20) & mask
    while pairs[at] >= 0 and pairs[at] >> _RANK_BITS != pair:
        at = (at + 1) & mask
    return at


@_compiled
def _fill_pairs(parts: Ints, pairs: Ints, tokens: int) -> Ints:
    pairs[-1] = tokens
    for rank in range(len(parts)):
        pair = parts[rank, 0] * tokens + parts[rank, 1]
        pairs[_slot(pair, pairs)] = pair << _RANK_BITS | rank
    return pairs


@_compiled
def _rank(left: int, right: int, pairs: Ints) -> int:
    entry = pairs[_slot(left * pairs[-1] + right, pairs)]
    return entry & ((1 << _RANK_BITS) - 1) if entry >= 0 else _NEVER


@_compiled
def _merge(symbols: Ints, pairs: Ints, parts: Ints) -> Ints:
    """The definition of BPE: of all neighbours, the pair of lowest rank is joined, the leftmost first, until there is none.

    symbols: tokens, changed in place; where one was taken into its left neighbour, -1. Returns the ranks of the merges, in the order in
    which they were done.
    """
    n = len(symbols)
    behind, before = np.arange(1, n + 1), np.arange(-1, n - 1)  # of the token that begins at a place: where it ends, and who ends there
    done = np.empty(n, dtype=np.int64)
    count = 0
    heap = [0 for _ in range(0)]  # for numba: an empty list of integers
    for i in range(n - 1):
        rank = _rank(symbols[i], symbols[i + 1], pairs)
        if rank < _NEVER:
            heapq.heappush(heap, rank << 32 | i)
    while len(heap):
        top = heapq.heappop(heap)
        rank, i = top >> 32, top & 0xFFFFFFFF
        right = behind[i]
        if symbols[i] < 0 or right == n or _rank(symbols[i], symbols[right], pairs) != rank:
            continue  # a neighbour has been joined to something else meanwhile
        symbols[i], symbols[right] = parts[rank, 2], -1
        behind[i] = behind[right]
        done[count] = rank
        count += 1
        if behind[i] < n:
            before[behind[i]] = i
            rank = _rank(symbols[i], symbols[behind[i]], pairs)
            if rank < _NEVER:
                heapq.heappush(heap, rank << 32 | i)
        if before[i] >= 0:
            rank = _rank(symbols[before[i]], symbols[i], pairs)
            if rank < _NEVER:
                heapq.heappush(heap, rank << 32 | before[i])
    return done[:count]


@_compiled
def _derive(text: Ints, start: Ints, pairs: Ints, parts: Ints) -> tuple[Ints, Ints]:
    """How each token comes about from its own text, which is text[start[t] : start[t + 1]].

    Returns kind: _UNREACHABLE if merges make something else of the text; _TANGLED if a merge comes behind one of higher rank; else
    _SIMPLE; and the rank of the last merge, -1 for single residues.
    """
    tokens = len(start) - 1
    kind, last = np.full(tokens, _SIMPLE), np.full(tokens, -1)
    for t in range(tokens):
        symbols = text[start[t] : start[t + 1]].copy()
        done = _merge(symbols, pairs, parts)
        if len(done):
            last[t] = done[-1]
        for i in range(1, len(done)):
            if done[i] < done[i - 1]:
                kind[t] = _TANGLED
        if symbols[0] != t:
            kind[t] = _UNREACHABLE
    return kind, last


@_compiled
def _fill_simple(order: Ints, by_length: Ints, last: Ints, left: Ints, rules: Ints, fits: Bits) -> None:
    """Set the bits of all pairs of simple tokens.

    crossed[u, v] is when a merge across the border of u and v comes first, in ranks, which are time as long as no merge comes behind
    one of higher rank; or never. The last thing that happens inside of them is the last merge of u = (…, right[u]) or of v = (left[v],
    …), whichever has the higher rank. What came before is known from (right[u], v) or (u, left[v]); then u and v may be joined
    themselves. At equal ranks what lies further left comes first: a merge inside u, one across, one inside v.

    order: (token u, its depth) so that right[u] is the last one before of the depth above; a row is kept for each depth only.
    rules: (left, right, rank), sorted by left.
    """
    tokens = len(last)
    crossed = np.empty((order[:, 1].max() + 1, tokens), dtype=np.int32)
    joined = np.full(tokens, _NEVER, dtype=np.int32)  # the rank of (u, v)
    first_rule = np.searchsorted(rules[:, 0], np.arange(tokens + 1))
    for k in range(len(order)):
        u, depth = order[k]
        row, above = crossed[depth], crossed[max(depth - 1, 0)]
        for r in range(first_rule[u], first_rule[u + 1]):
            joined[rules[r, 1]] = rules[r, 2]
        for v in by_length:
            if last[u] > last[v]:
                when = above[v]
                early = when < last[u]
            elif last[v] >= 0:
                when = row[left[v]]
                early = when <= last[v]
            else:
                when, early = _NEVER, False
            if not early:
                when = joined[v]
            row[v] = when
            if when == _NEVER:
                fits[u, v >> 6] |= np.uint64(1) << np.uint64(v & 63)
        for r in range(first_rule[u], first_rule[u + 1]):
            joined[rules[r, 1]] = _NEVER


@_compiled
def _fill_tangled(tangled: Ints, kept: Ints, text: Ints, start: Ints, pairs: Ints, parts: Ints, fits: Bits) -> None:
    """Set the bits of all pairs with a tangled token, by merging."""
    for t in tangled:
        for other in range(len(kept)):
            for u, v in ((t, other), (other, t)):
                a, b = kept[u], kept[v]
                symbols = np.concatenate((text[start[a] : start[a + 1]], text[start[b] : start[b + 1]]))
                _merge(symbols, pairs, parts)
                if symbols[0] == a and symbols[start[a + 1] - start[a]] == b:
                    fits[u, v >> 6] |= np.uint64(1) << np.uint64(v & 63)


@_compiled
def _encode_bpe(
    codes: Codes, starts: Ints, child: Tokens, token: Tokens, shorter: Tokens, length: Tokens, fits: Bits, ids: Ints, piece: int,
    out: Ints, bounds: Ints,
) -> int:  # fmt: skip
    longest = 0
    for s in range(len(starts) - 1):
        longest = max(longest, starts[s + 1] - starts[s])
    row = np.empty(longest, dtype=np.int32)  # the tokens so far
    dead = np.zeros(longest + 1, dtype=np.bool_)  # from here no row reaches the end
    written = 0
    for s in range(len(starts) - 1):
        end = starts[s]
        while end < starts[s + 1]:
            begin = end
            end = min(begin + piece, starts[s + 1]) if piece else starts[s + 1]
            at, count, soiled = begin, 0, False
            while at < end:
                node, candidate = 0, np.int32(-1)  # the longest token that begins here
                for i in range(at, end):
                    node = child[node, codes[i]]
                    if node == 0:
                        break
                    if token[node] >= 0:
                        candidate = token[node]
                while True:
                    if count:
                        fit = fits[row[count - 1]]
                        while candidate >= 0 and (
                            not (fit[candidate >> 6] >> np.uint64(candidate & 63)) & np.uint64(1) or dead[at + length[candidate] - begin]
                        ):
                            candidate = shorter[candidate]
                    else:
                        while candidate >= 0 and dead[at + length[candidate] - begin]:
                            candidate = shorter[candidate]
                    if candidate >= 0:
                        break
                    if count == 0:  # not `assert`: pytest rewrites those into what numba cannot compile
                        raise AssertionError("BPE: a text without encoding")
                    dead[at - begin] = soiled = True
                    count -= 1
                    at -= length[row[count]]
                    candidate = shorter[row[count]]
                row[count] = candidate
                count += 1
                at += length[candidate]
            if soiled:
                dead[: end - begin] = False
            for i in range(count):
                out[written + i] = ids[row[i]]
            written += count
        bounds[s + 1] = written
    return -1


@_compiled
def _encode_greedy(
    codes: Codes, starts: Ints, child: Tokens, token: Tokens, ids: Ints, unknown: int, piece: int, out: Ints, bounds: Ints
) -> int:
    written = 0
    for s in range(len(starts) - 1):
        end = starts[s]
        while end < starts[s + 1]:
            begin = end
            end = min(begin + piece, starts[s + 1])
            first, at = written, begin
            while at < end:
                node = 0 if at == begin else 1
                found, behind = -1, at
                for i in range(at, end):
                    node = child[node, codes[i]]
                    if node == 0:
                        break
                    if token[node] >= 0:
                        found, behind = token[node], i + 1
                if found < 0:
                    if unknown < 0:
                        return int(begin)
                    written, at = first, end
                    out[written] = unknown
                else:
                    at = behind
                    out[written] = ids[found]
                written += 1
        bounds[s + 1] = written
    return -1


@_compiled
def _encode_kmers(
    codes: Codes, starts: Ints, child: Tokens, token: Tokens, ids: Ints, unknown: int, k: int, step: int, out: Ints, bounds: Ints
) -> int:
    written = 0
    for s in range(len(starts) - 1):
        begin, end = starts[s], starts[s + 1]
        while begin < end and (step == k or begin == starts[s] or begin + k <= end):
            node, behind = 0, min(begin + k, end)
            for i in range(begin, behind):
                node = child[node, codes[i]]
                if node == 0:
                    break
            found = token[node]
            if found < 0 and unknown < 0:
                return int(begin)
            out[written] = ids[found] if found >= 0 else unknown
            written += 1
            begin += step
        bounds[s + 1] = written
    return -1


@_compiled
def _encode_unigram(
    codes: Codes, starts: Ints, child: Tokens, token: Tokens, ids: Ints, scores: NDArray[np.float64], piece: int, out: Ints, bounds: Ints
) -> int:
    """Viterbi, with the sums and ties of `tokenizers`: starts from left to right, a later way into a place must be truly better."""
    longest = 0
    for s in range(len(starts) - 1):
        longest = max(longest, starts[s + 1] - starts[s])
    best = np.empty(longest + 1, dtype=np.float64)
    back = np.empty(longest + 1, dtype=np.int64)
    last = np.empty(longest + 1, dtype=np.int32)
    written = 0
    for s in range(len(starts) - 1):
        end = starts[s]
        while end < starts[s + 1]:
            begin = end
            end = min(begin + piece, starts[s + 1]) if piece else starts[s + 1]
            n = end - begin
            last[: n + 1] = -1
            best[0] = 0.0
            for at in range(n):
                node = 0
                for i in range(at, n):
                    node = child[node, codes[begin + i]]
                    if node == 0:
                        break
                    found = token[node]
                    if found >= 0:
                        score = best[at] + scores[found]
                        if last[i + 1] < 0 or score > best[i + 1]:
                            best[i + 1], back[i + 1], last[i + 1] = score, at, found
            at, count = n, 0
            while at > 0:  # from behind; turned round below
                out[written + count] = ids[last[at]]
                count += 1
                at = back[at]
            for i in range(count // 2):
                a, b = written + i, written + count - 1 - i
                out[a], out[b] = out[b], out[a]
            written += count
        bounds[s + 1] = written
    return -1
