"""What every domain tokenizer promises: letters in, the same letters out, nothing unknown, atoms whole."""

from __future__ import annotations

import functools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biollm.core.alphabets import ALPHABETS
from biollm.modeling.domain import UNKNOWN, join_kmers, spell_kmers
from biollm.tokenizer.smiles import AtomBpe, spell_in_characters, split_atoms, train_atom_bpe
from biollm.tokenizer.train import build_chars, build_kmers, train_bpe, train_unigram, train_wordpiece
from tokenizers import Tokenizer

ATOMS = [
    "C",
    "c",
    "N",
    "O",
    "Cl",
    "Br",
    "[C@@H]",
    "[C@H]",
    "[nH]",
    "[Cl-]",
    "[12C]",
    "[N+]",
    "(",
    ")",
    "1",
    "2",
    "=",
    "%12",
    "%10",
    "#",
    ".",
]
MODALITIES = ("dna", "rna", "protein", "smiles")


def corpus(modality: str) -> list[str]:
    rng = random.Random(4)
    letters = ALPHABETS[modality].residues
    return ["".join(rng.choices(letters, weights=[1 / (i + 1) for i in range(len(letters))], k=300)) for _ in range(40)]


@functools.cache
def tokenizer(kind: str, modality: str) -> Tokenizer:
    letters, words, fold = ALPHABETS[modality].residues, corpus(modality), ALPHABETS[modality].folds_case
    if kind == "bpe":
        return train_bpe(words, letters, len(letters) + 60, fold_case=fold)
    if kind == "wordpiece":
        return train_wordpiece(words, letters, 2 * len(letters) + 60, 50, fold_case=fold)
    if kind == "unigram":
        return train_unigram(words, letters, len(letters) + 60, fold_case=fold)
    return build_kmers(letters, 2, fold_case=fold) if kind == "kmer" else build_chars(letters, fold_case=fold)


@functools.cache
def atom_bpe() -> tuple[AtomBpe, Tokenizer]:
    rng = random.Random(6)
    smiles = ["".join(rng.choices(ATOMS, weights=[9, 9, 5, 5, *([1] * (len(ATOMS) - 4))], k=20)) for _ in range(300)]
    bpe = train_atom_bpe(smiles, 220)
    return bpe, spell_in_characters(bpe)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "kmer", "char"])
@pytest.mark.parametrize("modality", MODALITIES)
@given(data=st.data())
def test_decode_gives_back_the_letters_and_nothing_is_unknown(kind: str, modality: str, data: st.DataObject) -> None:
    alphabet = ALPHABETS[modality]
    letters = alphabet.residues + (alphabet.residues.lower() if alphabet.folds_case else "")
    sequence = data.draw(st.text(letters, min_size=1, max_size=300))
    encoded = tokenizer(kind, modality).encode(sequence)
    assert UNKNOWN not in encoded.tokens
    assert tokenizer(kind, modality).decode(encoded.ids) == (sequence.upper() if alphabet.folds_case else sequence)
    if alphabet.folds_case:
        assert encoded.ids == tokenizer(kind, modality).encode(sequence.upper()).ids


@given(st.lists(st.sampled_from(ATOMS), min_size=1, max_size=80))
def test_the_character_bpe_of_smiles_cuts_as_the_atom_bpe_does(atoms: list[str]) -> None:
    bpe, characters = atom_bpe()
    smiles = "".join(atoms)
    assert characters.encode(smiles).tokens == bpe.encode(smiles)


@given(st.lists(st.sampled_from(ATOMS), min_size=1, max_size=40))
def test_atoms_are_found_again(atoms: list[str]) -> None:
    assert split_atoms("".join(atoms)) == atoms


@given(st.text("ACGTN", min_size=1, max_size=60), st.integers(1, 8))
def test_overlapping_kmers_join_to_the_sequence(sequence: str, k: int) -> None:
    assert join_kmers(spell_kmers(sequence, k)) == sequence
