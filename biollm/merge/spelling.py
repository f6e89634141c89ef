"""How a domain is spelt inside a base tokenizer: its mark, its units, and what the base makes of them.

A *mark* is a letter that no text uses; it stands before every residue of a sequence, so that "GATTACA" becomes "ߨGߨAߨTߨTߨAߨCߨA".
A residue with its mark is a *unit*. Base tokens hold no mark, so none matches across one, and domain tokens consist of units,
so none matches in a text. Residues that a base would split off or confuse are escaped. The case of letters in an uncased base: mark,
a second private letter, the letter. Digits and brackets of SMILES, where the base cuts them off: mark, a code of private letters, "a".
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, pairwise, product
from typing import Any

from biollm.core.errors import ConfigError
from biollm.modeling.byte_level import spell_bytes
from tokenizers import Tokenizer

# Letters (category Lo: pre-tokenizers keep them in a word) without case or decomposition (normalisers keep them) of two UTF-8 bytes
# (one merge joins them) from the historic corners of N'Ko, Thaana, Arabic, Latin and Syriac. Private-use code points would be the obvious
# choice, but BERT's normaliser deletes them (category Co). Which of them a base leaves alone is checked, not assumed.
POOL = "\u07e8\u07e9\u07ea\u07b1\u063b\u063c\u063d\u063e\u063f\u01bb\u074d\u074e\u074f\u0727"
# Three letters in five places spell 27 codes: as many as SMILES needs, with one rule for each place instead of one for each residue.
_CODE_LETTERS, _CODE_PLACES = 3, 5
_CODED = "a"  # what stands for a coded residue itself; every base keeps it with the letters before it
METASPACE = "▁"
# Stands before a text while sequences are marked. A symbol, since sequences are looked for where no letter stands before.
START = "⿻"
# A sequence in a text ends where a letter or digit would not stand.
_MAY_FOLLOW = (*string.punctuation, " ", "\n", "…", "’", "–", "£")


@dataclass(frozen=True)
class Spelling:
    """units: what the normaliser's rules write for each residue; model_units: the same as the base's model sees it."""

    mark: str
    model_mark: str
    escapes: str  # the other private letters
    units: dict[str, str]
    model_units: dict[str, str]
    needs_cut: bool = False  # base merges could join the last residue to what follows: the sequence must be cut out of the text

    @property
    def letters(self) -> str:
        return self.mark + self.escapes


@dataclass(frozen=True)
class Base:
    """A base tokenizer as merging sees it: the content of its tokenizer.json, and the tokenizer itself."""

    json: dict[str, Any]
    tokenizer: Tokenizer

    @property
    def kind(self) -> str:
        """BPE, WordPiece or Unigram (WordLevel is refused before)."""
        return str(self.json["model"]["type"])

    @property
    def byte_level(self) -> bool:
        """Whether the model sees bytes, spelt as GPT-2's 256 printable characters."""
        parts = members(self.json["pre_tokenizer"], "pretokenizers") + members(self.json["normalizer"], "normalizers")
        return any(part["type"] == "ByteLevel" for part in parts)

    @property
    def uncased(self) -> bool:
        return self.normalise("A") == self.normalise("a")

    @cached_property
    def merges(self) -> list[tuple[str, str]]:
        """The merges of a BPE base; none of other bases."""
        return [(left, right) for left, right in map(pair, self.json["model"].get("merges", []))]

    def pieces(self, text: str) -> list[str]:
        """A text as the model gets it: normalised and cut into words."""
        normaliser, pre_tokenizer = self.tokenizer.normalizer, self.tokenizer.pre_tokenizer
        text = normaliser.normalize_str(text) if normaliser else text
        return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)] if pre_tokenizer else [text]

    def normalise(self, text: str) -> str:
        """A piece of text after the base's normaliser, without what is put in front of every text."""
        normaliser = self.tokenizer.normalizer
        return (normaliser.normalize_str(text) if normaliser else text).rpartition(START)[2].removeprefix(METASPACE)

    def model_spelling(self, text: str) -> str:
        """A normalised text in the characters that the model sees."""
        return spell_bytes(text) if self.byte_level else text


def members(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The parts of a normaliser, pre-tokenizer or decoder, whether it is a Sequence, a single one or none."""
    if part is None:
        return []
    return [inner for outer in part[name] for inner in members(outer, name)] if part["type"] == "Sequence" else [part]


def pair(merge: str | list[str]) -> list[str]:
    """The two parts of a merge, in the older way of writing ("a b") or the newer one."""
    return merge.split(" ") if isinstance(merge, str) else list(merge)


def plan_spelling(base: Base, residues: str, taken: str) -> Spelling:
    """The mark and units of a new domain in a base, from private letters that are not `taken` by other domains.

    Raises ConfigError if the base uses, changes or cuts all of them.
    """
    others = "".join(residue for residue in residues if not (residue.isascii() and residue.isalpha()))
    lower = base.uncased and any(residue.islower() for residue in residues)
    other_domains = [base.model_spelling(letter) for letter in taken]
    own_merges = [merge for merge in base.merges if not any(letter in merge[0] for letter in other_domains)]
    letters = [letter for letter in POOL if letter not in taken and _is_free(base, own_merges, letter)]
    faults = []
    # A base that does not cut at digits and brackets needs no codes, and no rules for them, but for letters that it lacks.
    known = base.json["model"]["vocab"] if base.kind == "BPE" else others
    lacking = "".join(residue for residue in others if base.model_spelling(residue) not in known)
    for coded in dict.fromkeys((lacking, others)):
        needed = 1 + lower + (_CODE_LETTERS if coded else 0)
        for start in range(len(letters) - needed + 1):
            mark, *escapes = letters[start : start + needed]
            case = escapes.pop() if lower else ""
            units = {residue: mark + (case if residue.islower() else "") + residue for residue in residues}
            units |= {residue: mark + code + _CODED for residue, code in _codes(coded, escapes).items()}
            spelling = Spelling(
                mark=mark,
                model_mark=base.model_spelling(mark),
                escapes="".join(escapes) + case,
                units=units,
                model_units={residue: base.model_spelling(base.normalise(unit)) for residue, unit in units.items()},
            )
            if (fault := _fault(base, spelling)) is None:
                return replace(spelling, needs_cut=_runs_on(base, spelling))
            faults.append(fault)
    why = faults[-1] if faults else f"it uses {len(POOL) - len(letters)} of the {len(POOL)} letters in question itself"
    raise ConfigError(f"merge: this base tokenizer cannot take a private alphabet: {why}; strategy 'isolate' cannot serve it")


def code_places(letters: Iterable[str]) -> str:
    """The letter that each place of a code may hold, or leave out: a code is any part of this, in order."""
    return ("".join(sorted(letters)) * 2)[:_CODE_PLACES]


def _codes(residues: str, letters: list[str]) -> dict[str, str]:
    """Each residue with its code, the shortest first."""
    places = code_places(letters)
    codes = dict.fromkeys("".join(code) for length in range(1, len(places) + 1) for code in combinations(places, length))
    if len(residues) > len(codes):
        raise ConfigError(f"{len(residues)} residues are no letters; at most {len(codes)} can be spelt: {residues}")
    return dict(zip(residues, codes, strict=False))


def _is_free(base: Base, merges: list[tuple[str, str]], letter: str) -> bool:
    """Whether no base token holds the letter, and no base merge joins its first byte to what stands before it."""
    spelt = base.model_spelling(letter)
    return not any(spelt in token for token in base.tokenizer.get_vocab()) and not any(right[0] == spelt[0] for _, right in merges)


def _fault(base: Base, spelling: Spelling) -> str | None:
    """What this base does to units that it must not, or None if it leaves them whole wherever a sequence may stand."""
    if len(set(spelling.model_units.values())) < len(spelling.model_units):
        return "its normaliser makes different residues alike"
    if any(not unit.startswith(spelling.model_mark) for unit in spelling.model_units.values()):
        return f"its normaliser changes the letter U+{ord(spelling.mark):04X}"
    letters = {base.model_spelling(base.normalise(unit)[-1]): unit[-1] for unit in spelling.units.values()}
    if base.kind == "BPE" and (lacking := letters.keys() - base.json["model"]["vocab"].keys()):
        return f"it has no token for the letter {letters[min(lacking)]!r}"
    run, seen = ("".join(part.values()) * 2 for part in (spelling.units, spelling.model_units))
    # what a base merge would join first: a character and the beginning of what follows it
    joined = {(left, right[0]) for left, right in base.merges if len(left) == 1}
    if touched := joined.intersection(pairwise(seen)):
        return f"its merges join {min(touched)}"
    for before, behind in product(("", "a ", "(", "'-", "<a>"), ("", *_MAY_FOLLOW)):
        if not any(seen in piece for piece in base.pieces(before + run + behind)):
            return f"its pre-tokenizer cuts a sequence in {before + '…' + behind!r}"
    return None


def _runs_on(base: Base, spelling: Spelling) -> bool:
    """Whether a base merge could join the last letter of a sequence to what may stand behind it in the same word."""
    joined = {(left, right[0]) for left, right in base.merges if len(left) == 1}
    ends = {unit[-1] for unit in spelling.model_units.values()}
    run, seen = ("".join(part.values()) for part in (spelling.units, spelling.model_units))
    rests = (piece.partition(seen)[2] for behind in _MAY_FOLLOW for piece in base.pieces(run + behind) if seen in piece)
    return any((end, rest[0]) in joined for rest in rests if rest for end in ends)
