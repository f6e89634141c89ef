from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from biollm.core.errors import ConfigError
from biollm.modeling.domain import UNKNOWN
from biollm.tokenizer.train import build_chars, build_kmers, train_bpe, train_unigram, train_wordpiece
from tokenizers import Tokenizer

RNG = random.Random(5)
DNA = ["".join(RNG.choices("ACGT", k=400)) for _ in range(30)]

_TRAIN_ALL = """
import hashlib, random
from biollm.tokenizer.corpus import both_strands
from biollm.tokenizer.smiles import spell_in_characters, train_atom_bpe
from biollm.tokenizer.train import train_bpe, train_unigram, train_wordpiece
rng = random.Random(1)
dna = ["".join(rng.choices("ACGT", k=400)) for _ in range(20)]
both = list(both_strands(dna, "dna")) * 2  # mirrored and repeated: ties everywhere
words = ["".join(rng.choices("abcdefgh", k=4)) for _ in range(60)]
text = [" ".join(rng.choices(words, k=8)) for _ in range(60)] * 2  # words of equal frequency
smiles = ["".join(rng.choices(["C", "c1ccccc1", "[C@@H]", "Cl", "(=O)", "[nH]", "N", "%12"], k=12)) for _ in range(60)]
for tokenizer in (
    train_bpe(both, "ACGTN", 90), train_wordpiece(both, "ACGTN", 90, 50), train_unigram(both, "ACGTN", 90),
    train_bpe(text, None, 300), train_wordpiece(text, None, 560, 50), train_unigram(text, None, 300),
    spell_in_characters(train_atom_bpe(smiles, 150)),
):
    print(hashlib.sha256(tokenizer.to_str().encode()).hexdigest())
"""


def test_every_trainer_gives_the_same_bytes_in_every_process_with_any_number_of_threads() -> None:
    root = str(Path(__file__).parents[3])
    outputs = []
    for hash_seed, threads in (("0", "1"), ("1", "2"), ("2", "4"), ("random", "3"), ("3", "1")):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "RAYON_NUM_THREADS": threads, "PYTHONPATH": root}
        outputs.append(subprocess.run([sys.executable, "-c", _TRAIN_ALL], capture_output=True, check=True, env=environment).stdout)
    assert len(outputs[0].split()) == 7
    assert len(set(outputs)) == 1


def test_a_bpe_is_plain_merges_over_residues() -> None:
    tokenizer = train_bpe(DNA, "ACGTN", 40)
    assert tokenizer.get_vocab_size() == 40
    assert set("ACGTN") <= set(tokenizer.get_vocab())
    assert tokenizer.model.unk_token is None
    assert all(tokenizer.encode(token).tokens == [token] for token in tokenizer.get_vocab())


def test_kmers_are_cut_from_the_start_with_a_token_for_every_tail() -> None:
    tokenizer = build_kmers("ACGT", 3)
    assert tokenizer.get_vocab_size() == 4 + 16 + 64 + 1
    assert tokenizer.encode("GATTACA").tokens == ["GAT", "TAC", "A"]
    assert tokenizer.encode("gattac").tokens == ["GAT", "TAC"]
    assert tokenizer.decode(tokenizer.encode("gattaca").ids) == "GATTACA"


def test_a_vocabulary_of_kmers_that_explodes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.kmer is 8: over 5 letters \(ACGTN\) that makes 488,281 tokens, more than 200,000"):
        build_kmers("ACGTN", 8)


def test_single_residues() -> None:
    tokenizer = build_chars("ACGTN")
    assert tokenizer.encode("gaN").tokens == ["G", "A", "N"]
    assert tokenizer.decode([2, 0]) == "GA"


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "char"])
def test_text_of_any_kind_comes_back_to_the_byte(kind: str) -> None:
    text = ["the gene of the cell, the protein of the gene.", "in the cell the gene binds"] * 20
    tokenizer: Tokenizer = {
        "bpe": lambda: train_bpe(text, None, 300),
        "wordpiece": lambda: train_wordpiece(text, None, 540, 50),
        "unigram": lambda: train_unigram(text, None, 280),
        "char": lambda: build_chars(None),
    }[kind]()
    for line in ["The  gene", " naïve α-helix 中 🧬 ", "x" * 500, "##the [UNK]"]:
        encoded = tokenizer.encode(line)
        assert tokenizer.decode(encoded.ids) == line
        assert UNKNOWN not in encoded.tokens
    if kind != "char":
        assert len(tokenizer.encode("the gene of the cell").tokens) <= 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "residues"), [("bpe", 5_000_000), ("wordpiece", 500_000), ("unigram", 500_000), ("kmer", 500_000), ("char", 500_000)]
)
def test_whole_contigs_are_read_in_one_go(kind: str, residues: int) -> None:
    tokenizer: Tokenizer = {
        "bpe": lambda: train_bpe(DNA, "ACGTN", 40),
        "wordpiece": lambda: train_wordpiece(DNA, "ACGTN", 40, 50),
        "unigram": lambda: train_unigram(DNA, "ACGTN", 40),
        "kmer": lambda: build_kmers("ACGTN", 6),
        "char": lambda: build_chars("ACGTN"),
    }[kind]()
    sequence = "".join(random.Random(3).choices("ACGTN", k=5000)) * (residues // 5000)
    assert tokenizer.decode(tokenizer.encode(sequence).ids) == sequence
