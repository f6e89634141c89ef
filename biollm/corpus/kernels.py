"""Compiled loops over k-mers. Rows of symbols stand end to end: row i is symbols[offsets[i]:offsets[i + 1]]."""

from __future__ import annotations

import numpy as np

from biollm.core.compiled import compiled


@compiled
def mix(x):  # type: ignore[no-untyped-def]  # splitmix64: every bit of the result depends on every bit of x
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def row_kmers(symbols, start, end, k, nucleotides, unknown, least, counts, out):  # type: ignore[no-untyped-def]
    """Hashes of the informative k-mers of symbols[start:end], in order, into `out`; returns how many. `counts` is zero before and after.

    Bases are packed two bits each into the k-mer of the strand that is smaller (k <= 32), so different k-mers never collide; other symbols
    go through a rolling polynomial modulo 2^64.
    """
    found = 0
    run = 0  # known symbols in a row, up to here
    distinct = 0
    forward = np.uint64(0)
    reverse = np.uint64(0)
    two = np.uint64(2)
    if nucleotides:
        mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - 2 * k)
        top = np.uint64(2 * (k - 1))
        counts[:64] = 0
        for i in range(start, end):
            if symbols[i] == unknown:
                run, distinct = 0, 0
                counts[:64] = 0
                continue
            code = np.uint64(symbols[i])
            forward = ((forward << two) | code) & mask
            reverse = (reverse >> two) | ((np.uint64(3) - code) << top)
            run += 1
            if run >= 3:
                trimer = 16 * symbols[i - 2] + 4 * symbols[i - 1] + symbols[i]
                counts[trimer] += 1
                if counts[trimer] == 1:
                    distinct += 1
            if run > k:
                left = i - k
                trimer = 16 * symbols[left] + 4 * symbols[left + 1] + symbols[left + 2]
                counts[trimer] -= 1
                if counts[trimer] == 0:
                    distinct -= 1
            if run >= k and distinct >= least:
                out[found] = mix(min(forward, reverse))
                found += 1
        counts[:64] = 0
        return found
    base = np.uint64(0x9E3779B97F4A7C15)
    power = np.uint64(1)
    for _ in range(k):
        power *= base
    for i in range(start, end):
        if symbols[i] == unknown:
            for j in range(i - min(run, k), i):
                counts[symbols[j]] = 0
            run, distinct = 0, 0
            forward = np.uint64(0)
            continue
        forward = forward * base + mix(np.uint64(symbols[i]) + np.uint64(1))
        run += 1
        counts[symbols[i]] += 1
        if counts[symbols[i]] == 1:
            distinct += 1
        if run > k:
            gone = symbols[i - k]
            forward -= mix(np.uint64(gone) + np.uint64(1)) * power
            counts[gone] -= 1
            if counts[gone] == 0:
                distinct -= 1
        if run >= k and distinct >= least:
            out[found] = mix(forward)
            found += 1
    for j in range(end - min(run, k), end):
        counts[symbols[j]] = 0
    return found


@compiled
def distinct(values, count):  # type: ignore[no-untyped-def]
    """Sort values[:count], keep each once at the front; returns how many."""
    if count == 0:
        return 0
    values[:count].sort()
    kept = 1
    for i in range(1, count):
        if values[i] != values[kept - 1]:
            values[kept] = values[i]
            kept += 1
    return kept


@compiled
def longest(offsets):  # type: ignore[no-untyped-def]
    longest = 1
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    return longest


@compiled
def minhash(symbols, offsets, k, nucleotides, unknown, least, alphabet_size, factors, shifts):  # type: ignore[no-untyped-def]
    rows = len(offsets) - 1
    hashes = np.full((rows, len(factors)), 0xFFFFFFFF, dtype=np.uint32)
    sizes = np.zeros(rows, dtype=np.int64)
    keys = np.zeros(rows, dtype=np.uint64)
    counts = np.zeros(max(64, alphabet_size), dtype=np.int32)
    kmers = np.empty(longest(offsets), dtype=np.uint64)
    for row in range(rows):
        count = row_kmers(symbols, offsets[row], offsets[row + 1], k, nucleotides, unknown, least, counts, kmers)
        count = distinct(kmers, count)
        sizes[row] = count
        own = hashes[row]
        key = np.uint64(0)
        for i in range(count):
            short = np.uint32(kmers[i] >> np.uint64(32))
            key = mix(key ^ kmers[i])
            for p in range(len(factors)):
                value = np.uint32(factors[p] * short + shifts[p])
                own[p] = min(own[p], value)
        keys[row] = key
    return hashes, sizes, keys


@compiled
def band_keys(hashes, rows, begin, width):  # type: ignore[no-untyped-def]
    keys = np.empty(len(rows), dtype=np.uint64)
    for i in range(len(rows)):
        key = np.uint64(0)
        for p in range(begin, begin + width):
            key = mix(key ^ np.uint64(hashes[rows[i], p])) + np.uint64(p)
        keys[i] = key
    return keys


@compiled
def bucket_pairs(rows, keys, hashes, sizes, side, by_side, threshold, agreeing, neighbours):  # type: ignore[no-untyped-def]
    """Pairs of one bucket as (smaller row << 32 | larger row), without those whose sizes or MinHash values rule the threshold out."""
    pairs = []
    begin = 0
    while begin < len(rows):
        end = begin + 1
        while end < len(rows) and keys[end] == keys[begin]:
            end += 1
        for i in range(begin, end):
            compared = 0
            for j in range(i + 1, end):
                one, other = rows[i], rows[j]
                if by_side and side[one] == side[other]:
                    continue
                if min(sizes[one], sizes[other]) < threshold * max(sizes[one], sizes[other]):
                    continue
                compared += 1
                equal = 0
                for p in range(hashes.shape[1]):
                    equal += hashes[one, p] == hashes[other, p]
                if equal >= agreeing:
                    pairs.append((np.uint64(min(one, other)) << np.uint64(32)) | np.uint64(max(one, other)))
                if compared == neighbours:
                    break
        begin = end
    found = np.empty(len(pairs), dtype=np.uint64)
    for i in range(len(pairs)):
        found[i] = pairs[i]
    return np.unique(found)


@compiled
def jaccards(symbols, offsets, k, nucleotides, unknown, least, alphabet_size, first, second):  # type: ignore[no-untyped-def]
    """The exact Jaccard index of the k-mer sets of each pair. Pairs come sorted by `first`, whose set is then made once."""
    counts = np.zeros(max(64, alphabet_size), dtype=np.int32)
    one = np.empty(longest(offsets), dtype=np.uint64)
    other = np.empty(len(one), dtype=np.uint64)
    result = np.zeros(len(first), dtype=np.float64)
    held, of_one = -1, 0
    for pair in range(len(first)):
        a, b = first[pair], second[pair]
        if a != held:
            of_one = distinct(one, row_kmers(symbols, offsets[a], offsets[a + 1], k, nucleotides, unknown, least, counts, one))
            held = a
        of_other = distinct(other, row_kmers(symbols, offsets[b], offsets[b + 1], k, nucleotides, unknown, least, counts, other))
        i, j, both = 0, 0, 0
        while i < of_one and j < of_other:
            if one[i] == other[j]:
                both += 1
                i += 1
                j += 1
            elif one[i] < other[j]:
                i += 1
            else:
                j += 1
        union = of_one + of_other - both
        if union:
            result[pair] = both / union
    return result


@compiled
def slot_of(table, key):  # type: ignore[no-untyped-def]
    """Where a key stands in the open-addressing table, or the free slot where it may go. 0 marks a free slot."""
    mask = np.uint64(len(table) - 1)
    slot = (key >> np.uint64(8)) & mask
    while table[slot] != np.uint64(0) and table[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def stretches(  # type: ignore[no-untyped-def]
    symbols, offsets, k, nucleotides, unknown, least, alphabet_size, asked, others, slots, every, fewest
):
    """The table holds the k-mers of `asked`, each with the first of `others` that has it; so its size follows the smaller part."""
    counts = np.zeros(max(64, alphabet_size), dtype=np.int32)
    kmers = np.empty(longest(offsets), dtype=np.uint64)
    table = np.zeros(slots, dtype=np.uint64)
    holder = np.full(slots, -1, dtype=np.int32)
    sampled = np.uint64(every - 1)
    for row in asked:
        count = row_kmers(symbols, offsets[row], offsets[row + 1], k, nucleotides, unknown, least, counts, kmers)
        for i in range(count):
            if kmers[i] & sampled == 0 and kmers[i] != 0:
                table[slot_of(table, kmers[i])] = kmers[i]
    for number in range(len(others)):
        row = others[number]
        count = row_kmers(symbols, offsets[row], offsets[row + 1], k, nucleotides, unknown, least, counts, kmers)
        for i in range(count):
            if kmers[i] & sampled == 0 and kmers[i] != 0:
                slot = slot_of(table, kmers[i])
                if table[slot] == kmers[i] and holder[slot] < 0:
                    holder[slot] = number
    share = np.zeros(len(asked), dtype=np.float64)
    partner = np.full(len(asked), -1, dtype=np.int64)
    hits = np.empty(len(kmers), dtype=np.int32)
    for number in range(len(asked)):
        row = asked[number]
        count = row_kmers(symbols, offsets[row], offsets[row + 1], k, nucleotides, unknown, least, counts, kmers)
        looked, hit = 0, 0
        for i in range(count):
            if kmers[i] & sampled == 0 and kmers[i] != 0:
                looked += 1
                slot = slot_of(table, kmers[i])
                if holder[slot] >= 0:
                    hits[hit] = holder[slot]
                    hit += 1
        if looked < fewest or hit == 0:
            continue
        share[number] = hit / looked
        hits[:hit].sort()
        best, run = 0, 0
        for i in range(hit):
            run = run + 1 if i and hits[i] == hits[i - 1] else 1
            if run > best:
                best = run
                partner[number] = others[hits[i]]
    return share, partner


@compiled
def row_keys(symbols, offsets, unknown, both_strands):  # type: ignore[no-untyped-def]
    """Two 64-bit hashes of each row's symbols and length; with both strands, of the strand whose hash is smaller."""
    rows = len(offsets) - 1
    keys = np.zeros((rows, 2), dtype=np.uint64)
    known = np.zeros(rows, dtype=np.bool_)
    for row in range(rows):
        start, end = offsets[row], offsets[row + 1]
        a, b = np.uint64(end - start), np.uint64(0x51ED270B0B5F1C2D)
        for i in range(start, end):
            a = mix(a * np.uint64(0x9E3779B97F4A7C15) + np.uint64(symbols[i]))
            b = b * np.uint64(0xD1342543DE82EF95) + np.uint64(symbols[i]) + np.uint64(1)
            if symbols[i] != unknown:
                known[row] = True
        if both_strands:
            c, d = np.uint64(end - start), np.uint64(0x51ED270B0B5F1C2D)
            for i in range(end - 1, start - 1, -1):
                code = np.uint64(symbols[i])
                if code < np.uint64(4):
                    code = np.uint64(3) - code
                c = mix(c * np.uint64(0x9E3779B97F4A7C15) + code)
                d = d * np.uint64(0xD1342543DE82EF95) + code + np.uint64(1)
            if c < a or (c == a and d < b):
                a, b = c, d
        keys[row, 0], keys[row, 1] = a, b
    return keys, known


@compiled
def gather(symbols, offsets, rows, out, out_offsets):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        start = offsets[rows[i]]
        for j in range(out_offsets[i + 1] - out_offsets[i]):
            out[out_offsets[i] + j] = symbols[start + j]


@compiled
def join(parent, first, second):  # type: ignore[no-untyped-def]
    """Union by the smaller row, then every row straight to its root: the result does not depend on the order of the pairs."""
    for pair in range(len(first)):
        a, b = first[pair], second[pair]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a < b:
            parent[b] = a
        elif b < a:
            parent[a] = b
    for row in range(len(parent)):
        parent[row] = parent[parent[row]]
