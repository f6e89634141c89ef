"""The letters of FASTA records, checked and copied by a compiled loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from biollm.core.alphabets import DNA_ACCEPTED, DNA_AMBIGUOUS, DNA_FOLD
from biollm.core.compiled import compiled

Bytes = NDArray[np.uint8]
# Why the loop stops: the block ends, in a header or not; a letter that may not stand there; no room for headers.
END, IN_HEADER, STRANGE, MANY = range(4)
CR, LF, BEGIN = 13, 10, ord(">")
_FOREIGN, _SKIPPED = 0, 1


def _table(refuse: bool, mask: bool) -> Bytes:
    """What each byte becomes. refuse: IUPAC codes are foreign; mask: lower case becomes N."""
    table = np.full(256, _FOREIGN, dtype=np.uint8)
    table[[LF, CR, ord(" "), ord("\t")]] = _SKIPPED
    for letter in DNA_ACCEPTED:
        if not (refuse and letter in DNA_AMBIGUOUS):
            table[ord(letter)] = ord(letter.translate(DNA_FOLD))
            table[ord(letter.lower())] = ord("N") if mask else table[ord(letter)]
    return table


TABLES = {(refuse, mask): _table(refuse, mask) for refuse in (False, True) for mask in (False, True)}


@compiled
def copy_letters(block, at, table, fold, out, line, at_start, counts, begun):  # type: ignore[no-untyped-def]
    """Copy letters from block[at:] to out, which is as long, over as many records as there are.

    Returns (at, length, line, at_start, headers, status): where it stopped in both, in which line, and whether at its start.
    begun: a row for each header: where it begins and ends in the block, its line, `length` there, and the counts of the record before it;
    counts: [ambiguous, masked] of the last record.
    A guess: the next line is as long as the last one. If what would be its line end is one, and everything before it is A, C, G, T or N,
    it is copied without looking at single letters; the copy is taken back by not advancing `length`.
    """
    mask = np.uint8(0xDF if fold else 0xFF)
    size, length, guess, headers = len(block), 0, 0, 0
    line_start = at
    while at < size:
        if at_start and block[at] == BEGIN:
            end = at + 1
            while end < size and block[end] != LF and block[end] != CR:
                end += 1
            if end == size:
                return at, length, line, True, headers, IN_HEADER
            if headers == len(begun):
                return at, length, line, True, headers, MANY
            row = begun[headers]
            row[0], row[1], row[2], row[3], row[4], row[5] = at, end, line, length, counts[0], counts[1]
            counts[:] = 0
            crlf = block[end] == CR and end + 1 < size and block[end + 1] == LF
            headers, line, at = headers + 1, line + 1, end + (2 if crlf else 1)
            line_start = at
            continue
        run = guess if at_start and guess > 0 else 64
        if at + run < size and (run == 64 or block[at + run] == LF or block[at + run] == CR):
            source, target = block[at : at + run], out[length : length + run]  # slices: no negative index, so the loop is vectorised
            strange = False  # a truth value: numbers would be widened to 64 bits, at a fifth of the speed
            for k in range(run):
                letter = np.uint8(source[k] & mask)
                target[k] = letter
                strange |= (letter != 65) & (letter != 67) & (letter != 71) & (letter != 84) & (letter != 78)
            if not strange:
                at, length = at + run, length + run
                if block[at] == LF and at_start:
                    at, line, line_start = at + 1, line + 1, at + 1
                    continue
                at_start = False
                if run == 64 and block[at] != LF and block[at] != CR:
                    continue
        # letter by letter, to the end of the line or the next 64 letters
        stop = min(size, at + 64)
        while at < stop:
            byte = block[at]
            value = table[byte]
            if value == _FOREIGN:
                return at, length, line, at_start, headers, STRANGE
            if value == _SKIPPED:
                at_start = byte in (LF, CR)
                if not at_start and at + 1 < size and table[block[at + 1]] != _SKIPPED:
                    return at, length, line, at_start, headers, STRANGE  # white space is allowed at the end of a line only
                if at_start:
                    guess = at - line_start
                    if byte == CR and at + 1 < size and block[at + 1] == LF:
                        at += 1
                    line, line_start = line + 1, at + 1
                at += 1
                if at_start:
                    break
                continue
            if value == 78 and byte & np.uint8(0xDF) != 78:
                counts[1 if byte >= 97 and not fold else 0] += 1
            out[length] = value
            length, at, at_start = length + 1, at + 1, False
    return at, length, line, at_start, headers, END
