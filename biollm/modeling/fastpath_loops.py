"""The compiled loops of the fast path: over arrays only; `fastpath` packs them."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from biollm.core.compiled import compiled

Ints = NDArray[np.int64]
Codes = NDArray[np.uint8]
Tokens = NDArray[np.int32]
Bits = NDArray[np.uint64]

FOREIGN = 255
UNREACHABLE, SIMPLE, _TANGLED = 0, 1, 2
_NEVER = (1 << 31) - 1  # a rank above all ranks
_RANK_BITS = 24


@compiled
def translate(letters: Codes, table: Codes, codes: Codes) -> int:
    """Letters to codes; the place of the first that has none, or -1."""
    for i in range(len(letters)):
        codes[i] = table[letters[i]]
        if codes[i] == FOREIGN:
            return i
    return -1


@compiled
def _slot(pair: int, pairs: Ints) -> int:
    """Where a pair stands in the hash table, or the free place where it would. The last entry of `pairs` holds the number of tokens."""
    mask = len(pairs) - 2
    at = ((pair * 0x9E3779B97F4A7C1) >> 20) & mask
    while pairs[at] >= 0 and pairs[at] >> _RANK_BITS != pair:
        at = (at + 1) & mask
    return at


@compiled
def fill_pairs(parts: Ints, pairs: Ints, tokens: int) -> Ints:
    pairs[-1] = tokens
    for rank in range(len(parts)):
        pair = parts[rank, 0] * tokens + parts[rank, 1]
        pairs[_slot(pair, pairs)] = pair << _RANK_BITS | rank
    return pairs


@compiled
def _rank(left: int, right: int, pairs: Ints) -> int:
    entry = pairs[_slot(left * pairs[-1] + right, pairs)]
    return entry & ((1 << _RANK_BITS) - 1) if entry >= 0 else _NEVER


@compiled
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


@compiled
def derive(text: Ints, start: Ints, pairs: Ints, parts: Ints) -> tuple[Ints, Ints]:
    """How each token comes about from its own text, which is text[start[t] : start[t + 1]].

    Returns kind: UNREACHABLE if merges make something else of the text; _TANGLED if a merge comes behind one of higher rank; else
    SIMPLE; and the rank of the last merge, -1 for single residues.
    """
    tokens = len(start) - 1
    kind, last = np.full(tokens, SIMPLE), np.full(tokens, -1)
    for t in range(tokens):
        symbols = text[start[t] : start[t + 1]].copy()
        done = _merge(symbols, pairs, parts)
        if len(done):
            last[t] = done[-1]
        for i in range(1, len(done)):
            if done[i] < done[i - 1]:
                kind[t] = _TANGLED
        if symbols[0] != t:
            kind[t] = UNREACHABLE
    return kind, last


@compiled
def fill_simple(order: Ints, by_length: Ints, last: Ints, left: Ints, rules: Ints, fits: Bits) -> None:
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


@compiled
def fill_tangled(tangled: Ints, kept: Ints, text: Ints, start: Ints, pairs: Ints, parts: Ints, fits: Bits) -> None:
    """Set the bits of all pairs with a tangled token, by merging."""
    for t in tangled:
        for other in range(len(kept)):
            for u, v in ((t, other), (other, t)):
                a, b = kept[u], kept[v]
                symbols = np.concatenate((text[start[a] : start[a + 1]], text[start[b] : start[b + 1]]))
                _merge(symbols, pairs, parts)
                if symbols[0] == a and symbols[start[a + 1] - start[a]] == b:
                    fits[u, v >> 6] |= np.uint64(1) << np.uint64(v & 63)


@compiled
def _longest(starts: Ints) -> int:
    """The length of the longest sequence."""
    longest = 0
    for s in range(len(starts) - 1):
        longest = max(longest, starts[s + 1] - starts[s])
    return longest


@compiled
def encode_bpe(
    codes: Codes, starts: Ints, child: Tokens, token: Tokens, shorter: Tokens, length: Tokens, fits: Bits, ids: Ints, piece: int,
    out: Ints, bounds: Ints,
) -> int:  # fmt: skip
    longest = _longest(starts)
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


@compiled
def encode_greedy(
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


@compiled
def encode_kmers(
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


@compiled
def encode_unigram(
    codes: Codes, starts: Ints, child: Tokens, token: Tokens, ids: Ints, scores: NDArray[np.float64], piece: int, out: Ints, bounds: Ints
) -> int:
    """Viterbi, with the sums and ties of `tokenizers`: starts from left to right, a later way into a place must be truly better."""
    longest = _longest(starts)
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
