"""The MM and ML tags of a read into probabilities per base (SAM optional fields specification, section 1.7).

Legend: L bases of a read, n calls of an entry. Bases are ASCII codes in uint8 arrays, in the direction of the original molecule,
which is the direction that MM counts in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biollm.core.alphabets import COMPLEMENT_CODES

Bases = NDArray[np.uint8]
Floats = NDArray[np.float32]
Positions = NDArray[np.int64]

# One-letter code -> (name, the base that carries it), as the specification lists them; ambiguity codes (C+C) are "any of C's".
_LETTERS = {
    "m": ("5mC", "C"),
    "h": ("5hmC", "C"),
    "f": ("5fC", "C"),
    "c": ("5caC", "C"),
    "g": ("5hmU", "T"),
    "e": ("5fU", "T"),
    "b": ("5caU", "T"),
    "a": ("6mA", "A"),
    "o": ("8oxoG", "G"),
    "n": ("xanthosine", "N"),
}
_CHEBI = {
    "27551": "5mC",
    "76792": "5hmC",
    "76794": "5fC",
    "76793": "5caC",
    "16964": "5hmU",
    "80961": "5fU",
    "17477": "5caU",
    "28871": "6mA",
    "44605": "8oxoG",
    "18107": "xanthosine",
    "21839": "4mC",
}
BASE_OF_NAME = {**dict(_LETTERS.values()), "4mC": "C"}
CONTEXTS = ("CG", "CHG", "CHH", "unknown")

_HEAD = re.compile(r"([ACGTUN])([-+])([A-Za-z]+|[0-9]+)([.?]?)")
_DELTAS = re.compile(r"(?:[0-9]{1,9},)*+[0-9]{1,9}")


def is_modification(name: str) -> bool:
    """Whether a name is one that `parse_modifications` can give: a short name, or ChEBI:<number> for what has none."""
    return name in BASE_OF_NAME or (re.fullmatch(r"ChEBI:[0-9]+", name) is not None and name.removeprefix("ChEBI:") not in _CHEBI)


def to_bases(sequence: str) -> Bases:
    """(L,) uint8, read only."""
    return np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)


def complement(bases: Bases) -> Bases:
    """The base on the other strand, place by place; IUPAC codes too."""
    return COMPLEMENT_CODES[bases]


@dataclass(frozen=True)
class ModTrack:
    """One modification on one strand of a read.

    opposite: the modified bases are on the strand that was not read (MM's '-'); each value then sits at the read's base that pairs with it.
    probability: (L,) float32 0..1, NaN = no call.
    """

    name: str
    opposite: bool
    probability: Floats


@dataclass(frozen=True)
class _Entry:
    head: str
    base: str
    names: list[str]
    opposite: bool
    implicit: bool
    positions: Positions
    probabilities: Floats  # (n, names)


def parse_modifications(
    bases: Bases, mm: str, ml: Bases | None, wanted: frozenset[str], counts: dict[str, int], listed_only: bool = False
) -> list[ModTrack]:
    """The wanted modifications of a read, one ModTrack per name and strand that MM mentions.

    bases: (L,) the read in the direction of the original molecule; ml: (calls,) uint8, None where the tag is absent.
    A value N of ML is the probability (N + 0.5) / 256, the middle of its interval. A base that an entry skips is unmodified (0) in the
    modes '.' and none, and not called (NaN) in the mode '?', or wherever listed_only. All entries are checked; calls of what is not wanted
    are added to counts["calls_not_wanted_<name>"]. Raises ValueError, to be given its place by the caller, for a malformed entry, an entry
    that runs beyond the read's bases, a number of probabilities that does not fit, and a base that gets one modification twice.
    """
    where: dict[str, Positions] = {}
    entries = _read_entries(bases, mm, ml, where)
    tracks: dict[tuple[str, bool], Floats] = {}
    for entry in entries:
        for column, name in enumerate(entry.names):
            if name not in wanted:
                key = f"calls_not_wanted_{name}"
                counts[key] = counts.get(key, 0) + len(entry.positions)
                continue
            track = tracks.setdefault((name, entry.opposite), np.full(len(bases), np.nan, dtype=np.float32))
            if not np.isnan(track[entry.positions]).all():
                raise ValueError(f"MM gives one base the modification of '{entry.head}' twice")
            track[entry.positions] = entry.probabilities[:, column]
    for entry in entries:  # only now: what one entry lists is not overwritten by the silence of another
        for name in set(entry.names) & wanted if entry.implicit and not listed_only else ():
            track, places = tracks[name, entry.opposite], where[entry.base]
            track[places[np.isnan(track[places])]] = 0.0
    return [ModTrack(name, opposite, track) for (name, opposite), track in tracks.items()]


def _read_entries(bases: Bases, mm: str, ml: Bases | None, where: dict[str, Positions]) -> list[_Entry]:
    chunks = mm.split(";")
    if chunks.pop():
        raise ValueError("MM does not end in ';': it was cut off")
    heads = [chunk.partition(",") for chunk in chunks]
    number = [1 + deltas.count(",") if comma else 0 for _, comma, deltas in heads]
    entries: list[_Entry] = []
    begin = 0
    for (head, comma, deltas), n in zip(heads, number, strict=True):
        found = _HEAD.fullmatch(head)
        if found is None or (comma and not _DELTAS.fullmatch(deltas)):
            raise ValueError(f"MM holds '{(head + comma + deltas)[:40]}'; expected entries like 'C+m?,3,0;'")
        base, sign, code, mode = found.groups()
        names = _names(base.replace("U", "T"), sign, code)
        if base not in where:
            where[base] = np.arange(len(bases)) if base == "N" else np.flatnonzero(bases == ord(base.replace("U", "T")))
        place = np.fromstring(deltas, dtype=np.int64, sep=",") if n else np.zeros(0, dtype=np.int64)
        place = np.cumsum(place + 1) - 1
        if n and place[-1] >= len(where[base]):
            raise ValueError(f"MM entry '{head}' runs to the {base} number {place[-1] + 1}, but the read has {len(where[base])}")
        values = np.zeros(0, dtype=np.uint8) if ml is None else ml[begin : begin + n * len(names)]
        begin += n * len(names)
        if len(values) == n * len(names):
            probabilities = (values.astype(np.float32).reshape(n, len(names)) + np.float32(0.5)) / np.float32(256)
            entries.append(_Entry(head, base, names, sign == "-", mode != "?", where[base][place], probabilities))
    if begin != (0 if ml is None else len(ml)):
        raise ValueError(f"MM needs {begin} probabilities, " + ("and there is no ML" if ml is None else f"and ML holds {len(ml)}"))
    return entries


def _names(base: str, sign: str, code: str) -> list[str]:
    if code.isdigit():
        return [_CHEBI.get(code, f"ChEBI:{code}")]
    modified = base if sign == "+" else chr(COMPLEMENT_CODES[ord(base)])
    names = []
    for letter in code:
        name, carrier = _LETTERS.get(letter, ("", ""))
        names.append(name if name and (modified == "N" or carrier in (modified, "N")) else f"{modified}+{letter}")
    return names


def cytosine_contexts(bases: Bases, places: Positions, minus: bool) -> NDArray[np.uint8]:
    """The context of a cytosine at each place: an index into CONTEXTS.

    minus: the cytosines are on the strand opposite to `bases`. What stands at the place itself is not looked at. Whatever cannot be told,
    since an N or the end is too near, is "unknown".
    """
    step = -1 if minus else 1
    last = len(bases) - 1
    inside = [(places + step * k >= 0) & (places + step * k <= last) for k in (1, 2)]
    one, two = (np.where(ok, bases[np.clip(places + step * k, 0, max(last, 0))], ord("N")) for k, ok in zip((1, 2), inside, strict=True))
    guanine = ord("C") if minus else ord("G")
    plain = np.zeros(256, dtype=bool)
    plain[list(b"ACGT")] = True
    is_h = [plain[base] & (base != guanine) for base in (one, two)]
    return np.select(
        [one == guanine, is_h[0] & (two == guanine), is_h[0] & is_h[1]], [np.uint8(0), np.uint8(1), np.uint8(2)], np.uint8(3)
    ).astype(np.uint8)
