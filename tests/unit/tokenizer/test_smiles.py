from __future__ import annotations

import json

import pytest

from biollm.core.alphabets import SMILES
from biollm.core.errors import DataError
from biollm.tokenizer.smiles import spell_in_characters, split_atoms, train_atom_bpe

CORPUS = ["C[C@@H](Cl)c1cc[nH]c1", "BrC%12CC%12[Cl-]", "CC(=O)Oc1ccccc1C(=O)O", "[13CH3][N+](C)(C)C", "C%(123)CC%(123)"] * 10


def test_no_token_cuts_through_an_atom_that_was_seen() -> None:
    tokenizer = spell_in_characters(train_atom_bpe(CORPUS, 130))
    assert tokenizer.get_vocab_size() == 130
    for smiles in [*CORPUS, "Cl[C@@H]Br", "[Cl-][13CH3]Cl", "[nH]%12%(123)"]:
        encoded = tokenizer.encode(smiles)
        borders = {0}
        for atom in split_atoms(smiles):
            borders.add(max(borders) + len(atom))
        assert {end for _, end in encoded.offsets} <= borders
        assert tokenizer.decode(encoded.ids) == smiles


def test_atoms_are_built_from_the_left_before_anything_is_joined() -> None:
    merges = [
        tuple(pair) for pair in json.loads(spell_in_characters(train_atom_bpe(["[Cl-]Cl", "CCCC", "CCCC"], 90)).to_str())["model"]["merges"]
    ]
    assert merges[:5] == [("[", "C"), ("[C", "l"), ("[Cl", "-"), ("[Cl-", "]"), ("C", "l")]
    assert merges[5] == ("C", "C")


def test_an_atom_that_was_never_seen_still_comes_back() -> None:
    tokenizer = spell_in_characters(train_atom_bpe(CORPUS, 150))
    assert tokenizer.decode(tokenizer.encode("[Zr+4]C[C@](F)%99").ids) == "[Zr+4]C[C@](F)%99"


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("CC[NH", r"SMILES 'CC\[NH' holds '\[' without its partner, or nothing between at position 3"),
        ("C]C", r"'\]' without its partner"),
        ("C[]", r"'\[' without its partner, or nothing between at position 2"),
        ("C%1C", "% without two digits behind it at position 2"),
    ],
)
def test_broken_atoms_are_refused(smiles: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_atoms(smiles)


def test_a_vocabulary_below_letters_and_atoms_is_refused() -> None:
    with pytest.raises(
        DataError, match=rf"vocab_size is {len(SMILES) + 1}, but the letters of SMILES and the 2 atoms .* take {len(SMILES) + 4} tokens"
    ):
        train_atom_bpe(["C[nH]Cl"], len(SMILES) + 1)
