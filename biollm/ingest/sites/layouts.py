"""The table formats of methylation and of per-base signals: which column says what, and what a row may hold.

Sources: Bismark manual (coverage and cytosine report), ENCODE WGBS bedMethyl, modkit's bedMethyl (18 columns), BS-Seeker2 and CGmapTools
(CGmap), methylpy (allc), BSMAP methratio.py 2.90, UCSC bedGraph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from biollm.core.alphabets import reverse_complement
from biollm.core.errors import DataError
from biollm.core.streams import read_lines
from biollm.ingest.sites.config import SiteFormat
from biollm.ingest.sites.modifications import CODES

_CONTEXTS = {"CG": "CG", "CHG": "CHG", "CHH": "CHH", "CpG": "CG"}
_UNKNOWN_CONTEXTS = {"--", "-", ".", "N", "NA", "CN", "CHN", "CNN", "CNG", "CNH"}
MISSING = ("na", "NA", "nan", "NaN", "-nan", "null", "NULL", "-", ".", "")
_HEADER_WORDS = {"chr", "chrom", "chromosome", "contig", "seqname", "seqid"}

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(inf|nan|infinity)", re.IGNORECASE)
_WHOLE = {"start", "end", "methylated", "unmethylated", "coverage"}
_NUMBERS = {"value", "effective"}


@dataclass(frozen=True)
class Layout:
    """One form of one format. `columns` gives the role of each column; "" is not read."""

    format: SiteFormat
    columns: tuple[str, ...]
    base: Literal[0, 1]
    unit: Literal["fraction", "percent", "signal"]
    spaces: bool = False  # columns may be parted by spaces too
    modification: str | None = "5mC"  # of every row, where no column says it

    def __contains__(self, role: str) -> bool:
        return role in self.columns

    @property
    def schema(self) -> dict[str, type[pl.DataType]]:
        kinds: dict[str, type[pl.DataType]] = dict.fromkeys(_WHOLE, pl.Int64) | dict.fromkeys(_NUMBERS, pl.Float64)
        return {role or f"unread_{i}": kinds.get(role, pl.String) for i, role in enumerate(self.columns)}

    @property
    def has_contexts(self) -> bool:
        return any(role in self.columns for role in ("context", "trinucleotide", "kmer"))

    def describe(self) -> str:
        return f"{self.format}: {' '.join(role or '_' for role in self.columns)}"


_BED_METHYL = ("contig", "start", "end", "name", "", "strand", "", "", "", "coverage", "value")
_METHRATIO = ("contig", "start", "strand", "kmer", "value", "effective", "methylated", "coverage", "", "", "", "")
LAYOUTS = (
    Layout("bismark_cov", ("contig", "start", "end", "value", "methylated", "unmethylated"), 1, "percent"),
    Layout("bismark_cx", ("contig", "start", "strand", "methylated", "unmethylated", "context", ""), 1, "fraction"),
    Layout("bedmethyl", _BED_METHYL, 0, "percent", spaces=True),
    Layout("bedmethyl", (*_BED_METHYL, "", "", ""), 0, "percent", spaces=True),  # ENCODE since 2020: two genotypes, a quality
    Layout("bedmethyl", (*_BED_METHYL, "methylated", "", "", "", "", "", ""), 0, "percent", spaces=True),  # modkit
    Layout("cgmap", ("contig", "nucleotide", "start", "context", "", "value", "methylated", "coverage"), 1, "fraction"),
    Layout("allc", ("contig", "start", "strand", "trinucleotide", "methylated", "coverage", ""), 1, "fraction"),
    Layout("methratio", _METHRATIO, 1, "fraction"),
    Layout("bedgraph", ("contig", "start", "end", "value"), 0, "signal", spaces=True, modification=None),
)  # fmt: skip


def context_of(text: str) -> str | None:
    """CG, CHG, CHH, or None where the file says that it does not know. Raises ValueError."""
    if text in _CONTEXTS:
        return _CONTEXTS[text]
    if text in _UNKNOWN_CONTEXTS:
        return None
    raise ValueError("expected CG, CHG or CHH")


def context_of_bases(bases: str) -> str | None:
    """The context of the C that some bases begin with, read 5' to 3' on its own strand; None where N or the end hides it.

    >>> [context_of_bases(bases) for bases in ("CGA", "CAG", "CTT", "CNG", "C")]
    ['CG', 'CHG', 'CHH', None, None]
    """
    if bases[1:2] == "G":
        return "CG"
    if len(bases) < 3 or "N" in bases[1:3]:
        return None
    return "CHG" if bases[2] == "G" else "CHH"


def context_of_trinucleotide(text: str) -> str | None:
    if not re.fullmatch(r"C[ACGTUN]*", text):
        raise ValueError("expected the bases from the C on, for example CGA")
    return context_of_bases(text)


def context_of_kmer(text: str) -> str | None:
    """From '+' or '-' and methratio's column: the context, or the five bases of the + strand around the site."""
    strand, kmer = text[:1], text[1:]
    if kmer in _CONTEXTS:
        return _CONTEXTS[kmer]
    if not re.fullmatch(r"[ACGTN]{5}", kmer) or kmer[2] != ("C" if strand == "+" else "G"):
        raise ValueError("expected CG, CHG, CHH, or five bases with the C (on strand '-' the G) in the middle")
    return context_of_bases(kmer[2:] if strand == "+" else reverse_complement(kmer[:3]))


def modification_of(text: str) -> str:
    """The modification that bedMethyl's name column means.

    modkit writes a code, or code,motif,offset; other tools the modification itself. ENCODE leaves the name free, and measures 5mC.
    """
    code = text.split(",", 1)[0]
    if code in CODES:
        return CODES[code]
    if code in CODES.values() or code.isdecimal():
        return code
    return "5mC"


def context_of_name(text: str) -> str | None:
    """The context that modkit writes as the motif of a name, such as m,CG,0."""
    motif = text.split(",")[1] if text.count(",") == 2 else text
    return _CONTEXTS.get(motif)


def split_row(line: str, layout: Layout) -> list[str]:
    return re.split(r"\t| +", line) if layout.spaces else line.split("\t")


def is_comment(line: str) -> bool:
    return not line.strip() or line.startswith("#") or bool(re.match(r"(track|browser)(\s|$)", line))


def is_header(fields: Sequence[str]) -> bool:
    """Whether a first row names columns: a word for 'sequence', and no position in the next two."""
    return fields[0].lower() in _HEADER_WORDS and not any(field.isdecimal() for field in fields[1:3])


def fault_of(fields: Sequence[str], layout: Layout) -> str | None:
    """What is wrong with a row, for one that the fast reading refused; None if nothing is."""
    if len(fields) != len(layout.columns):
        return f"{len(fields)} columns parted by {'tabs or spaces' if layout.spaces else 'tabs'}; {layout.format} has {len(layout.columns)}"
    for number, (role, text) in enumerate(zip(layout.columns, fields, strict=True), start=1):
        if role and (expected := _expected(role, text, fields, layout)):
            return f"column {number} ({role}) is '{text}'; {expected}"
    return None


def _expected(role: str, text: str, fields: Sequence[str], layout: Layout) -> str | None:
    if role in _WHOLE:
        return None if re.fullmatch(r"\+?[0-9]{1,18}", text) else "expected a whole number, 0 or more"
    if role in _NUMBERS:
        return None if text in MISSING or _NUMBER.fullmatch(text) else "expected a number"
    if role in ("strand", "nucleotide"):
        allowed = ("C", "G") if role == "nucleotide" else ("+", "-", ".") if layout.format == "bedmethyl" else ("+", "-")
        return None if text in allowed else f"expected {' or '.join(allowed)}"
    try:
        if role == "context":
            context_of(text)
        elif role == "trinucleotide":
            context_of_trinucleotide(text)
        elif role == "kmer":
            context_of_kmer(fields[layout.columns.index("strand")] + text)
    except ValueError as error:
        return str(error)
    return None if text else "expected a name, found nothing"


_SAMPLED_LINES = 500
_PROBE = re.compile(r'"?(cg|ch\.|rs|nv)[0-9]')


def detect(file: Path) -> Layout | Literal["bigwig", "illumina"]:
    """The format of a file, from its content. Raises DataError listing the candidates if there is none, or more than one."""
    if is_bigwig(file):
        return "bigwig"
    lines = _sample(file)
    if len(lines) > 1 and _PROBE.match(lines[1][1]) and re.search("[\t,]", lines[1][1]):
        return "illumina"
    if len(lines) == 1 and is_header(lines[0][1].split()):
        raise DataError(f"{file} line {lines[0][0]}: holds a header and no row of data; export it again with its sites")
    candidates = [layout for layout in LAYOUTS if _first_fault(lines, layout) is None]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise DataError(f"{file}: could be {' or '.join(c.describe() for c in candidates)}; say which with format")
    raise DataError(
        f"{file}: not one of the site formats that are recognised by content:\n  "
        + "\n  ".join(f"{layout.describe()} - {_first_fault(lines, layout)}" for layout in LAYOUTS)
        + "\n  illumina: a header, then probes (cg…) x samples\n  bigwig\nConvert the table to one of them"
    )


def layout_of(file: Path, format: SiteFormat) -> Layout:
    """The layout of a text format that has been declared; of several, the one with this file's number of columns."""
    layouts = [layout for layout in LAYOUTS if layout.format == format]
    line = _sample(file)[-1][1]
    return next((layout for layout in layouts if len(split_row(line, layout)) == len(layout.columns)), layouts[0])


def _sample(file: Path) -> list[tuple[int, str]]:
    lines: list[tuple[int, str]] = []
    for number, line in read_lines(file):
        if not is_comment(line) and not line.startswith("!"):
            lines.append((number, line))
        if len(lines) == _SAMPLED_LINES:
            break
    if not lines:
        raise DataError(f"{file}: holds no row of data (an empty file, or only comments); expected one site a line")
    return lines


def _first_fault(lines: Iterable[tuple[int, str]], layout: Layout) -> str | None:
    for i, (number, line) in enumerate(lines):
        fields = split_row(line, layout)
        if i == 0 and is_header(fields):
            continue
        if fault := fault_of(fields, layout):
            return f"line {number}: {fault}"
    return None


_BIG_BED = (b"\xeb\xf2\x89\x87", b"\x87\x89\xf2\xeb")


def is_bigwig(file: Path) -> bool:
    with file.open("rb") as raw:
        magic = raw.read(4)
    if magic in _BIG_BED:
        raise DataError(f"{file}: a bigBed file; write it as text first (bigBedToBed), then give that")
    return magic in (b"\x26\xfc\x8f\x88", b"\x88\x8f\xfc\x26")


_FUNCTIONS = {
    "context": context_of, "trinucleotide": context_of_trinucleotide, "kmer": context_of_kmer,
    "name": context_of_name, "modification": modification_of,
}  # fmt: skip


def map_text(column: pl.Series, function_name: str) -> pl.Series:
    """A text column put through one of the functions above, once per distinct text. Raises ValueError for a text that it refuses."""
    texts = column.unique().drop_nulls().to_list()
    values = [_FUNCTIONS[function_name](text) for text in texts]
    return column.replace_strict(texts, pl.Series(values, dtype=pl.String), return_dtype=pl.String)
