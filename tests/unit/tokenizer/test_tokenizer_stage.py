from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from biollm.core.artifacts import Artifact
from biollm.core.errors import ConfigError, DataError
from biollm.modeling.domain import DomainTokenizer
from biollm.stages import BY_NAME, Run
from biollm.tokenizer.corpus import hold_out
from tokenizers import Tokenizer, models

TOKENIZER = BY_NAME["tokenizer"]
RNG = random.Random(8)
PROTEINS = ["".join(RNG.choices("ACDEFGHIKLMNPQRSTVWY", k=60)) for _ in range(120)]
DNA = ["".join(RNG.choices(["A", "C", "G", "T", "TATA"], k=200)) for _ in range(80)]
SMILES = ["".join(RNG.choices(["C", "c1ccccc1", "[nH]", "Cl", "(=O)", "N"], k=12)) for _ in range(80)]
TEXT = [" ".join(RNG.choices(["the", "gene", "binds", "kinase", "cells", "of"], k=9)) for _ in range(80)]


def recipe(folder: Path, base: str | None = None, **tokenizer: Any) -> Path:
    values: dict[str, Any] = {"name": "t", "tokenizer": tokenizer}
    if base:
        values["base"] = {"model": base}
    (folder / "t.yaml").write_text(yaml.safe_dump(values))
    return folder / "t.yaml"


def without_a_model(tiny_recipe: Callable[..., Path], folder: Path, **changes: Any) -> Path:
    return tiny_recipe(folder, **({"base": None, "merge": None, "expand": None, "pretrain": None, "embed": None} | changes))


def run(folder: Path, sequences: list[str], base: str | None = None, name: str = "x.txt", **tokenizer: Any) -> Artifact:
    (folder / name).write_text("".join(f"{sequence}\n" for sequence in sequences))
    path = recipe(folder, base, files=[name], **tokenizer)
    return Run.load(path, out=folder / "out").run_stage(TOKENIZER)[0]


@pytest.mark.parametrize(
    ("modality", "kind", "options"),
    [
        ("dna", "bpe", {"vocab_size": 60, "reverse_complement": True}),
        ("dna", "wordpiece", {"vocab_size": 60}),
        ("rna", "unigram", {"vocab_size": 40, "reverse_complement": True}),
        ("dna", "kmer", {"kmer": 3}),
        ("dna", "kmer", {"kmer": 3, "overlapping": True}),
        ("protein", "bpe", {"vocab_size": 60}),
        ("protein", "char", {}),
        ("protein", "unigram", {"vocab_size": 60}),
        ("smiles", "bpe", {"vocab_size": 100}),
        ("smiles", "wordpiece", {"vocab_size": 200}),
        ("smiles", "unigram", {"vocab_size": 100}),
        ("smiles", "char", {}),
        ("text", "bpe", {"vocab_size": 270}),
        ("text", "unigram", {"vocab_size": 262}),
    ],
)
def test_every_kind_and_modality_makes_a_tokenizer_that_gives_back_what_it_never_saw(
    tmp_path: Path, modality: str, kind: str, options: dict[str, Any]
) -> None:
    sequences = {"dna": DNA, "rna": DNA, "protein": PROTEINS, "smiles": SMILES, "text": TEXT}[modality]
    artifact = run(tmp_path, sequences, modality=modality, kind=kind, **options)
    domain, facts = DomainTokenizer.load(artifact.folder), artifact.facts
    assert (domain.spec.modality, domain.spec.kind) == (facts["modality"], facts["kind"]) == (modality, kind)
    assert facts["vocab_size"] == options.get("vocab_size", domain.tokenizer.get_vocab_size())
    assert facts["strands"] == domain.spec.strands == (2 if options.get("reverse_complement") else 1)
    assert facts["round_trip_failures"] == 0
    assert facts["residues_per_token"]["held_out"] >= (1 if modality != "text" else 1.8)
    read = {s.replace("T", "U") if modality == "rna" else s for s in sequences}
    assert domain.probe
    assert set(domain.probe) < read
    assert facts["train_sequences"] + facts["held_out_sequences"] == (len(sequences) if modality == "text" else len(read))
    for sequence, ids in zip(domain.probe, domain.encode_batch(domain.probe), strict=True):
        assert domain.decode(ids) == sequence
    again = run(
        tmp_path / "again" if (tmp_path / "again").mkdir() is None else tmp_path, sequences, modality=modality, kind=kind, **options
    )
    assert again.digest == artifact.digest


def test_the_held_out_sequences_change_nothing(tmp_path: Path) -> None:
    first = run(tmp_path, PROTEINS, modality="protein", kind="bpe", vocab_size=60)
    probe = set(DomainTokenizer.load(first.folder).probe)
    other = tmp_path / "other"
    other.mkdir()
    kept_back = sorted(probe)[0]
    second = run(other, [p for p in PROTEINS if p not in probe] + [kept_back], modality="protein", kind="bpe", vocab_size=60)
    assert (second.folder / "tokenizer.json").read_bytes() == (first.folder / "tokenizer.json").read_bytes()


def test_a_sample_bounds_what_is_trained_on(tmp_path: Path) -> None:
    facts = run(tmp_path, PROTEINS, modality="protein", kind="bpe", vocab_size=40, max_residues=3000).facts
    assert facts["train_residues"] == 3000 < facts["train_residues_available"]


@pytest.mark.parametrize("overlapping", [False, True])
def test_kmers_read_a_rare_letter_that_stands_on_the_held_out_side_only(tmp_path: Path, overlapping: bool) -> None:
    with_selenocysteine = ([*PROTEINS[:i], f"{PROTEINS[i][:9]}U{PROTEINS[i][9:]}", *PROTEINS[i + 1 :]] for i in range(len(PROTEINS)))
    proteins = next(some for some in with_selenocysteine if not any("U" in one for one in hold_out(some, "protein").train))
    folder = run(tmp_path, proteins, modality="protein", kind="kmer", kmer=2, overlapping=overlapping).folder
    assert DomainTokenizer.load(folder).spec.residues == "ACDEFGHIKLMNPQRSTUVWXY"


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_a_broken_smiles_string_is_named_with_file_and_line(tmp_path: Path, kind: str) -> None:
    with pytest.raises(
        DataError, match=r"mol\.smi line 81: SMILES 'CC\[Na' holds '\[' without its partner.* at position 3; mend or remove"
    ):
        run(tmp_path, [*SMILES, "CC[Na"], name="mol.smi", modality="smiles", kind=kind, vocab_size=200)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (models.BPE({"a": 0}, []), "bpe"),
        (models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"), "wordpiece"),
        (models.Unigram([("a", -1.0)]), "unigram"),
    ],
)
def test_the_kind_follows_the_base(tmp_path: Path, model: models.Model, kind: str) -> None:
    (tmp_path / "base").mkdir()
    Tokenizer(model).save(str(tmp_path / "base" / "tokenizer.json"))
    assert run(tmp_path, DNA, base="base", vocab_size=60).facts["kind"] == kind


def test_a_base_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "base" / "tokenizer.json"))
    with pytest.raises(
        ConfigError, match=r"the base tokenizer is a WordLevel; domain tokenizers are BPE, WordPiece, Unigram: set tokenizer\.kind"
    ):
        run(tmp_path, DNA, base="base")


def test_a_corpus_of_ingest_is_read_where_no_files_are_named(tmp_path: Path, tiny_recipe: Callable[..., Path]) -> None:
    loaded = Run.load(without_a_model(tiny_recipe, tmp_path, tokenizer={"kind": "bpe"}), out=tmp_path / "out")
    loaded.run_stage(BY_NAME["ingest"])
    facts = loaded.run_stage(TOKENIZER)[0].facts
    assert (facts["source"], facts["kind"], facts["vocab_size"]) == ("ingest", "bpe", 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "bpe"}, "tokenizer has nothing to train on; add a section 'ingest', or name files in tokenizer.files"),
        ({"files": ["x.txt"]}, "tokenizer.kind is not set and there is no base whose kind it could be; set tokenizer.kind, or add 'base: "),
        ({"kind": "kmer", "files": ["x.txt"]}, "kind is kmer, but kmer is not set"),
        ({"kind": "bpe", "kmer": 3, "files": ["x.txt"]}, "kmer and overlapping are for kind kmer, but kind is bpe"),
        ({"kind": "kmer", "kmer": 3, "modality": "text", "files": ["x.txt"]}, "text has no k-mers; choose bpe"),
        ({"kind": "kmer", "kmer": 2, "modality": "smiles", "files": ["x.txt"]}, "k-mers cut through the atoms of SMILES"),
        (
            {"kind": "bpe", "vocab_size": 32769, "files": ["x.fa"]},
            "tokenizer.vocab_size is 32769, but sequences are encoded with BPE tokenizers of at most 32768 tokens; lower it",
        ),
        (
            {"kind": "bpe", "modality": "protein", "reverse_complement": True},
            "reverse_complement is true, but protein has no second strand",
        ),
        ({"kind": "bpe", "column": "s"}, "column is set, but files is empty; name the tables in files"),
        (
            {"kind": "wordpiece", "modality": "protein", "vocab_size": 52},
            "tokenizer.vocab_size is 52, but a wordpiece tokenizer for protein has at least 53 tokens",
        ),
        ({"kind": "wine"}, "tokenizer.kind is 'wine'; it should be 'bpe', 'wordpiece', 'unigram', 'kmer' or 'char'"),
    ],
)
def test_contradictions_are_named_before_anything_runs(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Run.load(recipe(tmp_path, **options))
    assert message in str(error.value)


def test_a_modality_that_the_corpus_does_not_have_is_refused(tmp_path: Path, tiny_recipe: Callable[..., Path]) -> None:
    with pytest.raises(
        ConfigError, match=r"tokenizer\.modality is protein, but the corpus of 'ingest' is dna; make them one, or name protein files"
    ):
        Run.load(without_a_model(tiny_recipe, tmp_path, tokenizer={"modality": "protein", "kind": "char"}))


def test_without_a_modality_the_tokenizer_is_of_the_corpus(tmp_path: Path) -> None:
    values = {
        "name": "own",
        "ingest": {"modality": "protein", "sources": [{"name": "p", "records": "p.csv"}]},
        "tokenizer": {"kind": "bpe", "vocab_size": 40},
    }
    (tmp_path / "p.csv").write_text("sequence\n" + "".join(f"{protein}\n" for protein in dict.fromkeys(PROTEINS)))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    loaded = Run.load(path, out=tmp_path / "out")
    loaded.run_stage(BY_NAME["ingest"])
    assert loaded.run_stage(TOKENIZER)[0].facts["modality"] == "protein"
    for option, message in (
        ("vocab_size=20", "tokenizer.vocab_size is 20, but a bpe tokenizer for protein has at least 26 tokens"),
        ("reverse_complement=true", "tokenizer: reverse_complement is true, but protein has no second strand"),
    ):
        with pytest.raises(ConfigError, match=message):
            Run.load(path, [f"tokenizer.{option}"])


def test_a_vocabulary_below_the_alphabet_of_the_bases_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "base" / "tokenizer.json"))
    with pytest.raises(ConfigError, match="vocab_size is 10, but a wordpiece tokenizer for dna has at least 11 tokens"):
        run(tmp_path, DNA, base="base", vocab_size=10)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_a_vocabulary_that_the_data_cannot_fill_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(
        DataError, match=r"vocab_size is 9000, but the train split \(\d+ residues\) yields only \d+ tokens; lower vocab_size"
    ):
        run(tmp_path, PROTEINS[:10], modality="protein", kind=kind, vocab_size=9000)


def test_one_sequence_is_too_little(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one of each is needed, give more data"):
        run(tmp_path, ["MKV"], modality="protein", kind="char")


def test_the_wrong_alphabet_is_named_with_file_line_and_letter(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.txt line 3 holds 'E' at position 2; dna sequences may hold ACGTUNRYSWKMBDHV in either case"):
        run(tmp_path, ["ACGT", "GATT", "AEGT"], modality="dna", kind="char")


def test_a_stage_that_needs_a_base_says_so(tmp_path: Path, tiny_recipe: Callable[..., Path]) -> None:
    path = without_a_model(tiny_recipe, tmp_path, tokenizer=None, embed={"models": ["base"]})
    loaded = Run.load(path, out=tmp_path / "out")
    loaded.run_stage(BY_NAME["ingest"])
    with pytest.raises(ConfigError, match=r"this stage reads the base model, but the recipe names none; add 'base: \{model: …\}' to it"):
        loaded.run_stage(BY_NAME["embed"])
