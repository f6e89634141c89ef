"""Tokenizers for SMILES in which no token cuts through an atom.

The BPE is trained over atoms, each coded as one character, and then written in plain characters: first the merges that build the atoms,
letter by letter from the left, then the learnt ones, each atom spelt out. All atom merges rank before all learnt ones, and a chain of them
starts at "[", "%", "C" or "B" and can only go on to the right, so when the first learnt merge is tried the text is cut into atoms, as in
training. The result is a stock character BPE that segments every string of known atoms as the atom BPE does. An atom that the training
never saw (a rare bracket atom) is built as far as its beginning is known, and its other letters are tokens of their own.
WordPiece and Unigram: see train_atom_wordpiece and train_atom_unigram.

Atoms: Weininger 1988, doi:10.1021/ci00057a005; the pattern follows Schwaller et al. 2018, doi:10.1039/C8SC02339E.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from biollm.core.alphabets import SMILES
from biollm.core.errors import DataError
from biollm.modeling.atom_pieces import residue_pieces
from biollm.modeling.domain import PREFIX, UNKNOWN
from biollm.tokenizer.train import dress, dress_wordpiece
from biollm.tokenizer.unigram import learn_pieces
from tokenizers import Tokenizer, decoders, models, trainers

_ATOM = re.compile(r"\[[^\[\]]+\]|%\(\d+\)|%\d\d|Br|Cl|.", re.DOTALL)
# Codes for atoms of several letters; a private plane, so that they are no letter of SMILES.
_FIRST_CODE = 0xF0000
_MIN_FREQUENCY = 2
_LONGER = {"C": "l", "B": "r"}  # an atom that another one begins with, and how that goes on
_INSIDE, _PARTIAL = "lr[%", -1000.0


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


def check_atoms(named: Iterable[tuple[str, str]]) -> None:
    """Raise DataError naming the first SMILES string that split_atoms cannot split. named: where each stands, and the string."""
    for place, smiles in named:
        try:
            split_atoms(smiles)
        except DataError as error:
            raise DataError(f"{place}: {error}") from None


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
    words, atoms = _words_and_atoms(smiles)
    least = len(SMILES) + len(_atom_tokens(atoms))
    _check_size(vocab_size, least, len(atoms))
    codes = _codes_of(atoms)
    learner = Tokenizer(models.BPE())
    learner.train_from_iterator(
        _coded(words, codes),
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


def train_atom_wordpiece(smiles: Iterable[str], vocab_size: int, piece_residues: int) -> Tokenizer:
    """WordPiece of whole atoms, as a stock tokenizer over plain characters with `vocab_size` tokens, or fewer if the corpus is too small.

    It is trained over atoms as the BPE is. The longest match would still cut Cl where "CC" is a token and "CCl" is none: so with each
    token that ends in C or B stands the one that ends in Cl or Br. Sequences are cut into pieces that end between atoms.
    Raises DataError if the letters and atoms alone are more.
    """
    words, atoms = _words_and_atoms(smiles)
    atoms = [atom for atom in atoms if len(atom) < piece_residues]
    codes = _codes_of(atoms)
    fixed = [UNKNOWN, *(prefix + letter for prefix in ("", PREFIX) for letter in (*SMILES, *atoms))]
    _check_size(vocab_size, len(fixed), len(atoms))
    letters = [*SMILES, *codes.values()]
    runs = [list(run) for word in words for fits, run in groupby(word, lambda atom: len(atom) < piece_residues) if fits]
    learner = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    learner.train_from_iterator(
        _coded(runs, codes),
        trainers.WordPieceTrainer(
            vocab_size=2 * vocab_size,
            min_frequency=_MIN_FREQUENCY,
            special_tokens=[UNKNOWN, *letters, *(PREFIX + letter for letter in letters)],  # see train_wordpiece
            initial_alphabet=letters,
            continuing_subword_prefix=PREFIX,
            show_progress=False,
        ),
    )
    spelt = {code: atom for atom, code in codes.items()}
    learnt = ["".join(spelt.get(c, c) for c in token) for token, _ in sorted(learner.get_vocab().items(), key=lambda item: item[1])]
    vocabulary = dict.fromkeys(fixed)
    for token in learnt:
        group = {token: None}
        if (longer := token[-1] + _LONGER.get(token[-1], "")) in codes:
            group[token[:-1] + longer] = None
        fits = all(len(one.removeprefix(PREFIX)) + one.startswith(PREFIX) <= piece_residues for one in group)
        if fits and len(vocabulary | group) <= vocab_size:
            vocabulary |= group
    numbers = {token: number for number, token in enumerate(vocabulary)}
    return dress_wordpiece(numbers, SMILES, piece_residues, False, residue_pieces(piece_residues))


def train_atom_unigram(smiles: Iterable[str], vocab_size: int) -> Tokenizer:
    """Unigram of whole atoms, as a stock tokenizer over plain characters with `vocab_size` pieces, or fewer if the corpus is too small.

    It is trained over atoms as the BPE is. To cut through an atom, a text would need a piece that only begins inside of one or never ends
    one: the letters "l", "r", "[" and "%" alone, which score so low that any way through whole atoms beats them.
    Raises DataError if the letters and atoms alone are more.
    """
    words, atoms = _words_and_atoms(smiles)
    _check_size(vocab_size, len(SMILES) + len(atoms), len(atoms))
    codes = _codes_of(atoms)
    spelt = {code: atom for atom, code in codes.items()}
    learnt = learn_pieces(_coded(words, codes), [*SMILES, *codes.values()], vocab_size)
    pieces = [("".join(spelt.get(c, c) for c in piece), score) for piece, score in learnt]
    return dress(Tokenizer(models.Unigram([(p, _PARTIAL if p in _INSIDE else score) for p, score in pieces])), SMILES, False)


def _words_and_atoms(smiles: Iterable[str]) -> tuple[list[list[str]], list[str]]:
    """The strings in atoms, and all atoms of several letters."""
    words = [split_atoms(one) for one in smiles]
    return words, sorted({atom for word in words for atom in word if len(atom) > 1})


def _codes_of(atoms: Iterable[str]) -> dict[str, str]:
    return {atom: chr(_FIRST_CODE + i) for i, atom in enumerate(atoms)}


def _coded(words: Iterable[list[str]], codes: dict[str, str]) -> list[str]:
    return ["".join(codes.get(atom, atom) for atom in word) for word in words]


def _check_size(vocab_size: int, least: int, atoms: int) -> None:
    if vocab_size < least:
        raise DataError(
            f"tokenizer.vocab_size is {vocab_size}, but the letters of SMILES and the {atoms} atoms of several letters in this corpus "
            f"take {least} tokens; raise it"
        )
