from __future__ import annotations

import json
from pathlib import Path

import pytest

from biollm.core.errors import ArtifactError, ConfigError, DataError
from biollm.modeling.domain import DomainSpec, DomainTokenizer, join_kmers, probe_of, spell_kmers
from biollm.tokenizer.train import build_overlapping_kmers
from tokenizers import Tokenizer, models

SPEC = {
    "modality": "dna", "kind": "char", "residues": "ACGTN", "case": "upper", "vocab_size": 5,
    "piece_residues": None, "kmer": None, "overlapping": False, "strands": 1,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    chars = Tokenizer(models.BPE({letter: i for i, letter in enumerate("ACGTN")}, []))
    DomainTokenizer(chars, DomainSpec.model_validate(SPEC), ["ACGT", "NAN"]).save(tmp_path)
    return tmp_path


def test_a_saved_tokenizer_comes_back_and_saves_to_the_same_bytes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    domain = DomainTokenizer.load(folder)
    assert domain.spec == DomainSpec.model_validate(SPEC)
    assert domain.probe == ["ACGT", "NAN"]
    assert domain.encode_batch(["GAT"]) == [[2, 0, 3]]
    again = tmp_path_factory.mktemp("again")
    domain.save(again)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("name", ["domain.json", "probe.txt"])
def test_a_folder_without_its_sidecar_is_no_domain_tokenizer(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=rf"no domain tokenizer \({name} is missing\); make it again with the stage 'tokenizer'"):
        DomainTokenizer.load(folder)


def test_a_folder_without_tokenizer_json_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"holds no tokenizer\.json"):
        DomainTokenizer.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "wine"}, r"domain\.json: not a file that this version of biollm reads \(modality"),
        ({"new_key": 1}, r"domain\.json: .*\(new_key: Extra inputs"),
        ({"kmer": 3}, r"domain\.json: .*kind char, kmer 3 and overlapping False contradict each other"),
        ({"vocab_size": 6}, r"domain\.json speaks of 6 tokens, but tokenizer\.json has 5"),
        ({"residues": "ACGT"}, r"probe\.txt: sequence in line 2 holds 'N' at position 1; this dna tokenizer reads ACGT in either case"),
    ],
)
def test_a_damaged_sidecar_is_named(folder: Path, change: dict[str, object], message: str) -> None:
    (folder / "domain.json").write_text(json.dumps(SPEC | change))
    with pytest.raises(ArtifactError, match=message):
        DomainTokenizer.load(folder)


def test_a_sidecar_that_is_no_json_and_a_probe_that_is_no_text(folder: Path) -> None:
    (folder / "probe.txt").write_bytes(b"\xff\n")
    with pytest.raises(ArtifactError, match=r"probe\.txt: not UTF-8 text"):
        DomainTokenizer.load(folder)
    (folder / "probe.txt").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"probe\.txt: holds no sequence; expected at least one .*; make it again with the stage"):
        DomainTokenizer.load(folder)
    (folder / "domain.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"domain\.json: not valid JSON"):
        DomainTokenizer.load(folder)


def test_a_letter_without_a_token_and_an_empty_sequence_are_refused(folder: Path) -> None:
    domain = DomainTokenizer.load(folder)
    with pytest.raises(DataError, match="sequence number 1 holds 'J' at position 2; this dna tokenizer reads ACGTN in either case"):
        domain.encode_batch(["ACG", "AJ"])
    with pytest.raises(DataError, match="sequence chr4 is empty"):
        domain.encode_batch([""], ["chr4"])


@pytest.mark.parametrize("sequence", ["A", "AC", "ACG", "ACGTN", "acgtnacgt"])
def test_overlapping_kmers_are_spelt_and_joined(sequence: str) -> None:
    assert join_kmers(spell_kmers(sequence, 3)) == sequence
    values = SPEC | {"kind": "kmer", "kmer": 3, "overlapping": True, "vocab_size": 5 + 25 + 125 + 1}
    domain = DomainTokenizer(build_overlapping_kmers("ACGTN", 3), DomainSpec.model_validate(values), [])
    (ids,) = domain.encode_batch([sequence])
    assert len(ids) == max(len(sequence) - 2, 1)
    assert domain.decode(ids) == sequence.upper() == domain.normal(sequence)


def test_a_probe_is_bounded() -> None:
    assert probe_of(["ACGT", "TT", "GGG"], max_residues=3, max_bytes=7) == ["ACG", "TT"]


def test_a_probe_of_texts_with_several_lines_comes_back(folder: Path) -> None:
    probe = probe_of(["a question\n\nan answer", "one\r\ntwo\rthree", "\n"], max_residues=9, max_bytes=100)
    assert probe == ["a questio", "an answer", "one", "two", "three"]
    text = DomainSpec.model_validate(SPEC | {"modality": "text", "residues": "", "case": "kept"})
    DomainTokenizer(DomainTokenizer.load(folder).tokenizer, text, probe).save(folder)
    assert DomainTokenizer.load(folder).probe == probe
