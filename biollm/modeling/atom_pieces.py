"""Pieces of SMILES that end between atoms. WordPiece reads bounded pieces of a sequence; a border may not part Cl, [nH] or %12.

The same border is written three times: over residues (domain tokenizers, and the fast path), and over units (merged tokenizers). Of
`n` residues, a piece is as long as it can be with a border at its end; where there is none (an atom of more than n letters), n.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biollm.modeling.fastpath import ForeignLetterError, SequenceEncoder
from biollm.modeling.vocabulary import Domain


def residue_pieces(n: int) -> str:
    """The pieces as a pattern over residues.

    >>> re.findall(residue_pieces(3), "CCClC[nH]%12O")
    ['CC', 'ClC', '[nH', ']', '%12', 'O']
    """
    # No border before the l of Cl or r of Br, nor before ")" and digits (what is behind "%(" ends so), nor in brackets, nor in %12.
    border = rf"(?![lr])(?!\d{{0,3}}\))(?![^\[\]]{{0,{n}}}\])(?<!%)(?<!%\d)"
    return f".{{1,{n}}}{border}|.{{1,{n}}}"


def unit_pieces(units: Mapping[str, str], unit: str, n: int) -> str:
    """The pieces as a pattern over units. units: residue -> unit as the base's normaliser leaves it; unit: a pattern of any one."""
    unit = unit.replace("]*", "]*+")  # else a border might be found within a unit
    digits = "|".join(units[digit] for digit in string.digits)
    inside = f"(?:(?!{units['[']}|{units[']']}){unit}){{0,{n}}}{units[']']}"
    behind = "|".join([units["%"], *(units["%"] + units[digit] for digit in string.digits)])
    border = f"(?!{units['l']}|{units['r']})(?!(?:{digits}){{0,3}}{units[')']})(?!{inside})(?<!{behind})"
    return f"(?:(?:{unit}){{1,{n}}}{border}|(?:{unit}){{1,{n}}})"


def unit_of(domain: Domain) -> str:
    """A pattern of any unit of a domain, as it is behind the base's normaliser."""
    escapes = domain.letters[1:]
    return f"{domain.mark}{f'[{escapes}]*' if escapes else ''}."


def has_atom_pieces(domain: Domain) -> bool:
    """Whether a domain is cut into pieces that end between atoms."""
    return domain.modality == "smiles" and domain.kind == "wordpiece"


def reads_atom_pieces(merged: Mapping[str, Any], domain: Domain) -> bool:
    """Whether a merged tokenizer.json cuts a domain so; those that earlier versions wrote cut after n residues."""
    if not has_atom_pieces(domain) or domain.piece_residues is None:
        return False
    wanted = unit_pieces(domain.model_units, unit_of(domain), domain.piece_residues)
    return any(wanted in pattern for pattern in _patterns(merged["pre_tokenizer"]))


def _patterns(part: Any) -> list[str]:
    if isinstance(part, Mapping):
        own = [part["Regex"]] if isinstance(part.get("Regex"), str) else []
        return own + [pattern for inner in part.values() for pattern in _patterns(inner)]
    return [pattern for inner in part for pattern in _patterns(inner)] if isinstance(part, list) else []


class AtomPieceEncoder(SequenceEncoder):
    """A SequenceEncoder that gets sequences in pieces that end between atoms."""

    def __init__(self, tables: Any, piece_residues: int) -> None:
        super().__init__(tables, fold_case=False)
        self._pieces = re.compile(residue_pieces(piece_residues), re.DOTALL)

    def encode(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """As SequenceEncoder.encode."""
        cut = [self._pieces.findall(sequence) for sequence in sequences]
        try:
            found = iter(super().encode([piece for pieces in cut for piece in pieces]))
        except ForeignLetterError as error:
            number, before = 0, error.sequence  # the piece with the letter, counted from the first of that sequence
            while before >= len(cut[number]):
                before -= len(cut[number])
                number += 1
            start = sum(map(len, cut[number][:before]))
            raise ForeignLetterError(number, start + error.position, error.letter) from None
        return [np.concatenate([np.zeros(0, dtype=np.int64), *(next(found) for _ in pieces)]) for pieces in cut]
