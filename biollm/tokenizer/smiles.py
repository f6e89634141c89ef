"""BPE for SMILES in which no token cuts through an atom.

It is trained over atoms, each coded as one character, and then written in plain characters: first the merges that build the atoms,
letter by letter from the left, then the learnt ones, each atom spelt out. All atom merges rank before all learnt ones, and a chain of them
starts at "[", "%", "C" or "B" and can only go on to the right, so when the first learnt merge is tried the text is cut into atoms, as in
training. The result is a stock character BPE that segments every string of known atoms as the atom BPE does. An atom that the training
never saw (a rare bracket atom) is built as far as its beginning is known, and its other letters are tokens of their own.

Atoms: Weininger 1988, doi:10.1021/ci00057a005; the pattern follows Schwaller et al. 2018, doi:10.1039/C8SC02339E.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from biollm.core.alphabets import SMILES
from biollm.core.errors import DataError
from tokenizers import Tokenizer, decoders, models, trainers

_ATOM = re.compile(r"\[[^\[\]]+\]|%\(\d+\)|%\d\d|Br|Cl|.", re.DOTALL)
# Codes for atoms of several letters; a private plane, so that they are no letter of SMILES.
_FIRST_CODE = 0xF0000
_MIN_FREQUENCY = 2


def split_atoms(smiles: str) -> list[str]:
    """The atoms, bonds, branches and ring closures of a SMILES string.

    >>> split_atoms("C[C@@H](Cl)c1cc%12")
    ['C', '[C@@H]', '(', 'Cl', ')', 'c', '1', 'c', 'c', '%12']

    Raises DataError for a bracket without partner, or % without the number of a ring.
    """
    atoms = _ATOM.findall(smiles)
    for atom in atoms:
        if atom in ("[", "]", "%"):
            position = len("".join(atoms[: atoms.index(atom)])) + 1
            what = "% without two digits behind it" if atom == "%" else f"'{atom}' without its partner, or nothing between"
            raise DataError(f"SMILES {smiles[:60]!r} holds {what} at position {position}; mend or remove it")
    return list(atoms)


@dataclass(frozen=True)
class AtomBpe:
    """A BPE over coded atoms, and the codes."""

    tokenizer: Tokenizer
    codes: dict[str, str]  # atom of several letters -> its character

    def encode(self, smiles: str) -> list[str]:
        """The tokens of a string of known atoms, spelt out."""
        coded = "".join(self.codes.get(atom, atom) for atom in split_atoms(smiles))
        return [self.spell(token) for token in self.tokenizer.encode(coded).tokens]

    def spell(self, token: str) -> str:
        atoms = {code: atom for atom, code in self.codes.items()}
        return "".join(atoms.get(letter, letter) for letter in token)


def train_atom_bpe(smiles: Iterable[str], vocab_size: int) -> AtomBpe:
    """Train over atoms so that the BPE in characters has `vocab_size` tokens, or fewer if the corpus is too small.

    Raises DataError if the letters and atoms alone are more.
    """
    words = [split_atoms(one) for one in smiles]
    atoms = sorted({atom for word in words for atom in word if len(atom) > 1})
    least = len(SMILES) + len(_atom_tokens(atoms))
    if vocab_size < least:
        raise DataError(
            f"tokenizer.vocab_size is {vocab_size}, but the letters of SMILES and the {len(atoms)} atoms of several letters in this corpus "
            f"take {least} tokens; raise it"
        )
    codes = {atom: chr(_FIRST_CODE + i) for i, atom in enumerate(atoms)}
    learner = Tokenizer(models.BPE())
    learner.train_from_iterator(
        ["".join(codes.get(atom, atom) for atom in word) for word in words],
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(_atom_tokens(atoms)) + len(codes),
            min_frequency=_MIN_FREQUENCY,
            initial_alphabet=[*SMILES, *codes.values()],
            show_progress=False,
        ),
    )
    return AtomBpe(learner, codes)


def spell_in_characters(bpe: AtomBpe) -> Tokenizer:
    """The same BPE over plain characters, as a stock tokenizer; case is kept."""
    atoms = list(bpe.codes)
    merges = _atom_merges(atoms)
    spelt = {code: atom for atom, code in bpe.codes.items()}
    learnt = json.loads(bpe.tokenizer.to_str())["model"]["merges"]
    merges += [("".join(spelt.get(c, c) for c in left), "".join(spelt.get(c, c) for c in right)) for left, right in learnt]
    tokens = dict.fromkeys([*SMILES, *(left + right for left, right in merges)])
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _atom_merges(atoms: Iterable[str]) -> list[tuple[str, str]]:
    """The merges that build atoms from the left. Those in brackets come first: "[Cl-]" must not begin with Cl, nor "[12C]" end in C."""
    ordered = sorted(atoms, key=lambda atom: (atom[0] not in "[%", atom))
    return list(dict.fromkeys((atom[:i], atom[i]) for atom in ordered for i in range(1, len(atom))))


def _atom_tokens(atoms: Iterable[str]) -> set[str]:
    return {left + right for left, right in _atom_merges(atoms)}
