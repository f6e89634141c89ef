"""Whether sites lie on the bases that they must lie on: the test that finds shifted coordinates, swapped strands and wrong assemblies."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biollm.core.alphabets import COMPLEMENT_CODES
from biollm.core.errors import DataError, listed
from biollm.ingest.sites.modifications import BASE_OF

_CONTEXT_CODES = {"CG": 1, "CHG": 2, "CHH": 3}
_MASKS = (("base", "C"), ("strand", "-"), ("strand", "."))
Mask = NDArray[np.bool_]
MAX_MISSES = 0.01
_C, _A, _G, _T, _N = (ord(base) for base in "CAGTN")
# What is tried when sites miss: name -> (shift on +, shift on -, strand flipped).
_REMEDIES = {
    "shifted by -1": (-1, -1, False),
    "shifted by +1": (1, 1, False),
    "with the strand flipped": (0, 0, True),
    "if those on '-' are shifted by +1": (0, 1, False),
    "if those on '-' are shifted by -1": (0, -1, False),
}
_ADVICE = {
    "shifted by -1": "the file counts from 1: declare coordinates: 1",
    "shifted by +1": "the file counts from 0: declare coordinates: 0",
    "with the strand flipped": "the strand column means the other strand: swap + and - in the file",
    "if those on '-' are shifted by +1": "the file gives a CpG's - strand at the position of its C: shift those rows",
    "if those on '-' are shifted by -1": "the file gives the - strand one base too far: shift those rows",
}


@dataclass(frozen=True)
class SiteCheck:
    """How the sites of one contig lie on its sequence.

    sites: those whose modification needs a certain base; misses: those of them on another one, or beyond the sequence's end. rows: all
    sites, whatever they need; out_of_range: those of them beyond the sequence's end. hits: how many would lie right under each remedy.
    context_sites: sites on the right base whose context the file gives and the sequence shows; context_misses: those where the two differ.
    examples: a few misses, in words.
    """

    contig: str
    rows: int
    sites: int
    misses: int
    out_of_range: int
    hits: dict[str, int] = field(default_factory=dict)
    context_sites: int = 0
    context_misses: int = 0
    examples: tuple[str, ...] = ()
    context_examples: tuple[str, ...] = ()
    outside_examples: tuple[str, ...] = ()


def check_sites(sites: pl.DataFrame, sequence: NDArray[np.uint8]) -> SiteCheck:
    """Compare the sites of one contig with its sequence.

    sites: a site frame of one contig, in any order; sequence: (bases,) ASCII in upper case. A modified C lies on C (on strand '-' of the
    genome's + strand: on G), a modified A on A (T); strand '.' may be either. Modifications of other bases, and signals, need no base.
    """
    position = sites["position_0based"].to_numpy()
    outside = (position < 0) | (position >= len(sequence))
    chosen = sites.with_columns(base=pl.col("modification").replace_strict(BASE_OF, default=None, return_dtype=pl.String))
    chosen = chosen.filter(pl.col("base").is_in(["C", "A"]))
    position = chosen["position_0based"].to_numpy()
    is_c, minus, either = (chosen.select(pl.col(name) == value).to_series().to_numpy() for name, value in _MASKS)
    plus_base = np.where(is_c, _C, _A).astype(np.uint8)
    right = _lies_right(sequence, position, plus_base, minus, either)
    hits: dict[str, int] = {}
    if not right.all():
        for name, (on_plus, on_minus, flipped) in _REMEDIES.items():
            shifted = position + np.where(minus, on_minus, on_plus)
            hits[name] = int(_lies_right(sequence, shifted, plus_base, minus ^ flipped, either).sum())
    given = chosen["context"].replace_strict(_CONTEXT_CODES, default=0, return_dtype=pl.UInt8).to_numpy()
    shown = _shown_contexts(sequence, position, minus | (either & (_take(sequence, position) == _G)))
    compared = right & is_c & (given > 0) & (shown > 0)
    wrong = np.flatnonzero(compared & (given != shown))
    return SiteCheck(
        contig=str(sites["contig"][0]) if sites.height else "",
        rows=sites.height,
        sites=len(position),
        misses=int((~right).sum()),
        out_of_range=int(outside.sum()),
        hits=hits,
        context_sites=int(compared.sum()),
        context_misses=len(wrong),
        examples=tuple(f"{_place(chosen, i)} is {_letter(sequence, position[i])}" for i in np.flatnonzero(~right)[:3].tolist()),
        context_examples=tuple(f"{_place(chosen, i)} is no {chosen['context'][i]}" for i in wrong[:3].tolist()),
        outside_examples=tuple(f"{_place(sites, i)}, of {len(sequence):,} bases" for i in np.flatnonzero(outside)[:3].tolist()),
    )


def _place(sites: pl.DataFrame, number: int) -> str:
    return "{contig} position {position_0based} (from 0) strand {strand}".format(**sites.row(number, named=True))


def _take(sequence: NDArray[np.uint8], position: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The bases there; N beyond the ends."""
    if not len(sequence):
        return np.full(len(position), _N, dtype=np.uint8)
    inside = (position >= 0) & (position < len(sequence))
    return np.where(inside, np.take(sequence, position, mode="clip"), _N).astype(np.uint8)


def _lies_right(sequence: NDArray[np.uint8], position: NDArray[np.int64], plus_base: NDArray[np.uint8], minus: Mask, either: Mask) -> Mask:
    found, other = _take(sequence, position), COMPLEMENT_CODES[plus_base]
    right: Mask = np.where(either, (found == plus_base) | (found == other), found == np.where(minus, other, plus_base))
    return right


def _shown_contexts(sequence: NDArray[np.uint8], position: NDArray[np.int64], minus: Mask) -> NDArray[np.uint8]:
    """The context of a C on each position, in the codes above; 0 where N or an end hides it."""
    step = np.where(minus, -1, 1)
    next_base, last_base = (_take(sequence, position + step * i) for i in (1, 2))
    guanine = np.where(minus, _C, _G)
    known = (next_base != _N) & (last_base != _N)
    codes = np.where(next_base == guanine, 1, np.where(known, np.where(last_base == guanine, 2, 3), 0))
    return codes.astype(np.uint8)


def _letter(sequence: NDArray[np.uint8], position: int) -> str:
    return chr(sequence[position]) if 0 <= position < len(sequence) else "beyond the end"


def judge(checks: Iterable[SiteCheck], where: str) -> None:
    """Raise DataError if more than MAX_MISSES of the sites lie on a wrong base, beyond the end, or are given a wrong context.

    where: the file of sites and the genome, for the message, which names the rate, examples, and the shift or strand that would fit.
    """
    parts = list(checks)
    sites, misses = sum(part.sites for part in parts), sum(part.misses for part in parts)
    if misses > MAX_MISSES * sites:
        examples = _first(part.examples for part in parts)
        hits = {name: sum(part.hits.get(name, 0) for part in parts) for name in _REMEDIES}
        best = max(_REMEDIES, key=lambda name: hits[name])
        if hits[best] >= (1 - MAX_MISSES) * sites:
            advice = f"{_all_or(hits[best], sites)} would lie right {best}: {_ADVICE[best]}"
        else:
            advice = (
                "no shift and no strand would make them fit: the sites belong to another assembly, contigs are confused (aliases?), or the "
                "values are not of this modification"
            )
        outside = sum(part.out_of_range for part in parts)
        beyond = f", {outside:,} beyond the end of their sequence" if outside else ""
        raise DataError(
            f"{where}: {misses:,} of {sites:,} sites ({100 * misses / sites:.1f} %) are not on the base that their modification needs "
            f"(C for 5mC, A for 6mA; on '-' its complement){beyond}: {examples}. "
            f"{advice[0].upper()}{advice[1:]}"
        )
    rows, outside = sum(part.rows for part in parts), sum(part.out_of_range for part in parts)
    if outside > MAX_MISSES * rows:
        examples = _first(part.outside_examples for part in parts)
        raise DataError(
            f"{where}: {outside:,} of {rows:,} positions ({100 * outside / rows:.1f} %) are beyond the end of their sequence: {examples}. "
            "The values belong to another assembly, or contigs are confused (aliases?): give the track of this genome, or its genome"
        )
    compared, wrong = sum(part.context_sites for part in parts), sum(part.context_misses for part in parts)
    if wrong > MAX_MISSES * compared:
        examples = _first(part.context_examples for part in parts)
        raise DataError(
            f"{where}: {wrong:,} of {compared:,} sites ({100 * wrong / compared:.1f} %) have another context in the genome: {examples}. "
            "The context column (or the one that contexts declares) is of another genome or strand; leave it out or mend it"
        )


def _first(examples: Iterable[tuple[str, ...]]) -> str:
    return "; ".join([example for some in examples for example in some][:3])


def _all_or(hits: int, sites: int) -> str:
    return f"All {sites:,} sites" if hits == sites else f"{hits:,} of {sites:,} sites"


def check_names(site_contigs: Collection[str], reference_contigs: Collection[str], where: str) -> list[str]:
    """The contigs of a file of sites that the genome lacks (a spike-in, for example), sorted.

    Raises DataError if they have none in common, showing both sets, and if a contig of either is left over that the other has in another
    style (chr1 and chr2 against chr1 and 2); with the aliases to declare, where names differ in style only.
    """
    missing = sorted(set(site_contigs) - set(reference_contigs))
    aliases = suggest_aliases(site_contigs, reference_contigs)
    shown = ", ".join(f"{old}: {new}" for old, new in list(aliases.items())[:4])
    shown += ", …" if len(aliases) > 4 else ""
    if len(missing) < len(set(site_contigs)):
        if aliases:
            raise DataError(
                f"{where}: sites on {listed(list(aliases), 6)}, which the genome lacks, and none on {listed(list(aliases.values()), 6)}, "
                f"which seem to be the same: declare aliases: {{{shown}}}, or take these sites out"
            )
        return missing
    advice = f"declare aliases: {{{shown}}}" if aliases else "declare aliases, or give the genome of the sites"
    given, there = (listed(sorted(set(names)), 6) for names in (site_contigs, reference_contigs))
    raise DataError(f"{where}: sites on {given}, but the genome holds {there}: {advice}")


def suggest_aliases(names: Collection[str], reference_names: Collection[str]) -> dict[str, str]:
    """Names that a genome lacks -> those of its names, not used so far, that mean the same in another style.

    Styles: chr1, Chr1, 1, NC_000001.11; chrM and MT. Where the only name there is meets the only one of the genome, these are a pair: the
    user sees it before it is used. A name that could mean two, or that two could mean, is left out.

    >>> suggest_aliases(["chr1", "2", "lambda"], ["chr1", "chr2", "chrM"])
    {'2': 'chr2'}
    """
    left, free = set(names) - set(reference_names), set(reference_names) - set(names)
    if len(left) == len(set(names)) == len(set(reference_names)) == 1:
        return {next(iter(left)): next(iter(free))}
    ours, theirs = _by_core(left), _by_core(free)
    return {old[0]: theirs[core][0] for core, old in ours.items() if len(old) == 1 and len(theirs.get(core, [])) == 1}


def _by_core(names: Collection[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(_core(name), []).append(name)
    return found


def _core(name: str) -> str:
    if human := re.fullmatch(r"NC_0000(\d\d)\.\d+", name):  # RefSeq's human chromosomes are numbered in their accessions
        number = int(human[1])
        return {23: "x", 24: "y"}.get(number, str(number))
    core = re.sub(r"^(chromosome|chrom|chr)[_ ]?", "", name.lower())
    return {"m": "mt", "mito": "mt", "nc_012920.1": "mt", "pltd": "pt", "c": "pt"}.get(core, core.lstrip("0") or core)
