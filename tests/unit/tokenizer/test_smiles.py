from __future__ import annotations

import json
import random

import pytest

from biollm.core.alphabets import SMILES
from biollm.core.errors import DataError
from biollm.tokenizer.smiles import spell_in_characters, split_atoms, train_atom_bpe, train_atom_unigram, train_atom_wordpiece

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


ATOMS = ["C", "B", "c", "1", "(", "=O", ")", "Cl", "Br", "[C@@H]", "[nH]", "%12", "[Cl-]", "%(123)"]


def random_smiles(number: int, length: int) -> list[str]:
    rng = random.Random(1)
    weights = [9, 3, 5, 3, 2, 2, 2, *([1] * 7)]
    return ["".join(rng.choices(ATOMS, weights, k=length)) for _ in range(number)]


@pytest.mark.parametrize("kind", ["wordpiece", "wordpiece in short pieces", "unigram"])
def test_no_token_of_wordpiece_or_unigram_cuts_through_an_atom_that_was_seen(kind: str) -> None:
    train = random_smiles(300, 20)
    longest = 50 if kind == "wordpiece" else 9
    tokenizer = train_atom_unigram(train, 200) if kind == "unigram" else train_atom_wordpiece(train, 400, longest)
    tokens = tokenizer.get_vocab()
    assert len(tokens) == (200 if kind == "unigram" else 400)
    assert sum(len(split_atoms(token)) > 1 for token in tokens if token[0] not in "[%]∙") > 10, "some hold several atoms"
    for smiles in [*train, *random_smiles(200, 60), "CBr" * 40, "CCl" * 40, "[C@@H]" * 30]:
        encoded = tokenizer.encode(smiles)
        borders = {0}
        for atom in split_atoms(smiles):
            borders.add(max(borders) + len(atom))
        assert {end for _, end in encoded.offsets} <= borders, smiles
        assert tokenizer.decode(encoded.ids) == smiles


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_an_atom_that_wordpiece_and_unigram_never_saw_still_comes_back(kind: str) -> None:
    tokenizer = train_atom_unigram(CORPUS, 130) if kind == "unigram" else train_atom_wordpiece(CORPUS, 190, 10)
    for smiles in ("[Zr+4]C[C@](F)%99", "[" + "C" * 30 + "]CCl", "rlC]%[", "C" * 8 + "Cl"):
        assert tokenizer.decode(tokenizer.encode(smiles).ids) == smiles
    train = train_atom_unigram if kind == "unigram" else lambda smiles, size: train_atom_wordpiece(smiles, size, 10)
    with pytest.raises(DataError, match=r"tokenizer\.vocab_size is 72, .* the 2 atoms .* take \d+ tokens; raise it"):
        train(["C[nH]Cl"], 72)


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
