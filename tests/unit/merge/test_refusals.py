"""What the merge refuses, each with its reason and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biollm.core.errors import ConfigError, DataError
from biollm.merge import proof
from biollm.merge.spelling import POOL
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

Bases = Callable[[str], Tokenizer]
Domains = Callable[..., Any]
Start = Callable[[Tokenizer], Any]


def changed(base: Tokenizer, **parts: Any) -> Tokenizer:
    """A copy of a tokenizer with some of its parts replaced."""
    copy = Tokenizer.from_str(base.to_str())
    for name, part in parts.items():
        setattr(copy, name, part)
    return copy


def test_ids_with_a_gap(base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start) -> None:
    content = json.loads(base_tokenizer("gpt2").to_str())
    first = next(iter(content["model"]["vocab"]))
    content["model"]["vocab"][first] = 5000
    size = len(content["model"]["vocab"]) + len(content["added_tokens"])
    with pytest.raises(ConfigError, match=f"ids are not 0 to {size - 1}: {size} tokens, largest id 5000; repair it first"):
        start_merge(Tokenizer.from_str(json.dumps(content)))


def test_a_word_level_base(domain_tokenizer: Domains, start_merge: Start) -> None:
    base = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    with pytest.raises(ConfigError, match="the base tokenizer's model is WordLevel; biollm merges into BPE, WordPiece, Unigram"):
        start_merge(base).add(domain_tokenizer("dna", "bpe"))


@pytest.mark.parametrize(
    ("kind", "own", "advice"),
    [
        ("bert_cased", "bpe", "wordpiece or kmer or char"),
        ("gpt2", "wordpiece", "bpe or char"),
        ("t5", "bpe", "unigram or kmer or char"),
        ("llama2", "kmer", "bpe or char"),
    ],
)
def test_kinds_that_do_not_match(
    base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start, kind: str, own: str, advice: str
) -> None:
    match = f"a domain tokenizer of kind '{own}' cannot live in a .* base; train one of kind {advice}.*tokenizer.kind"
    with pytest.raises(ConfigError, match=match):
        start_merge(base_tokenizer(kind)).add(domain_tokenizer("dna", own))


def test_pieces_longer_than_a_wordpiece_base_reads(base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start) -> None:
    base = start_merge(base_tokenizer("bert_cased"))
    with pytest.raises(ConfigError, match=r"pieces of 51 residues.*at most 100 letters.*tokenizer.piece_residues 50"):
        base.add(domain_tokenizer("dna", "wordpiece", 51))
    base.add(domain_tokenizer("dna", "wordpiece", 50))


def test_pieces_of_smiles_whose_units_are_longer(base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start) -> None:
    """A bracket may take six letters: 17 of them are more than the base reads, though two for each would not be."""
    with pytest.raises(ConfigError, match=r"pieces of 17 residues.*at most 100 letters.*tokenizer.piece_residues 16"):
        start_merge(base_tokenizer("bert_cased")).add(domain_tokenizer("smiles", "wordpiece", 17))


def test_a_base_without_decoder(base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start) -> None:
    content = json.loads(base_tokenizer("gpt2").to_str())
    content["decoder"] = None
    with pytest.raises(
        ConfigError, match="the base tokenizer has no decoder, so its tokens cannot be read back as text; give it one first"
    ):
        start_merge(Tokenizer.from_str(json.dumps(content))).add(domain_tokenizer("dna", "bpe"))


def test_a_base_that_uses_every_private_letter(base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start) -> None:
    base = Tokenizer.from_str(base_tokenizer("bert_cased").to_str())
    base.add_tokens([AddedToken(letter) for letter in POOL])
    match = rf"cannot take a private alphabet: it uses {len(POOL)} of the {len(POOL)} letters in question itself; strategy 'isolate' cannot"
    with pytest.raises(ConfigError, match=match):
        start_merge(base).add(domain_tokenizer("dna", "wordpiece"))


def test_a_base_that_uses_one_private_letter_gets_another(base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start) -> None:
    base = Tokenizer.from_str(base_tokenizer("bert_cased").to_str())
    base.add_tokens([AddedToken(POOL[0])])
    merged = start_merge(base).add(domain_tokenizer("dna", "wordpiece"))
    assert merged.vocabulary.domains[0].mark == POOL[1]
    assert merged.ids(f"a {POOL[0]} b") == base.encode(f"a {POOL[0]} b", add_special_tokens=False).ids
    assert merged.ids("GATTACAGATTACA") == merged.wanted("dna", "GATTACAGATTACA")


@pytest.mark.parametrize(
    ("part", "value", "why"),
    [
        ("normalizer", normalizers.Replace("A", "T"), "its normaliser makes different residues alike"),
        ("normalizer", normalizers.Sequence([normalizers.Replace(letter, "") for letter in POOL]), "its normaliser"),
        ("pre_tokenizer", pre_tokenizers.Split("", "isolated"), "its pre-tokenizer cuts a sequence in '…'"),
    ],
)
def test_a_base_that_spoils_every_private_letter(
    base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start, part: str, value: Any, why: str
) -> None:
    base = changed(base_tokenizer("bert_cased"), **{part: value})
    with pytest.raises(ConfigError, match=f"cannot take a private alphabet: {why}"):
        start_merge(base).add(domain_tokenizer("dna", "wordpiece"))


def test_a_base_that_lacks_a_letter(domain_tokenizer: Domains, start_merge: Start) -> None:
    base = Tokenizer(models.BPE({"A": 0, "C": 1, "G": 2, "T": 3}, []))
    base.decoder = decoders.Fuse()
    with pytest.raises(ConfigError, match="it has no token for the letter 'N'"):
        start_merge(base).add(domain_tokenizer("dna", "bpe"))


def test_a_merged_tokenizer_whose_rules_somebody_changed(base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start) -> None:
    merged = start_merge(base_tokenizer("gpt2")).add(domain_tokenizer("dna", "bpe"))
    merged.json["decoder"]["decoders"].pop()
    with pytest.raises(
        ConfigError, match="the decoder of this merged tokenizer was not written by this version of biollm; merge all domains"
    ):
        merged.add(domain_tokenizer("protein", "bpe"))


# --- the proof finds what is wrong ---------------------------------------------------------------------------------------------


@pytest.fixture
def dna_in_gpt2(base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start) -> Any:
    return start_merge(base_tokenizer("gpt2")).add(domain_tokenizer("dna", "bpe"))


def broken(merged: Any, change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(merged.json))
    change(content)
    return content


def open_json(content: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(content))


def test_a_moved_base_token_stops_the_merge(dna_in_gpt2: Any) -> None:
    def swap(content: dict[str, Any]) -> None:
        vocab = content["model"]["vocab"]
        vocab["A"], vocab["B"] = vocab["B"], vocab["A"]

    assert proof.prove_base_ids(dna_in_gpt2.base, dna_in_gpt2.tokenizer) == {"base_tokens_moved": 0}
    with pytest.raises(DataError, match=r"a guarantee does not hold: 2 base tokens changed their id.*nothing was written"):
        proof.prove_base_ids(dna_in_gpt2.base, open_json(broken(dna_in_gpt2, swap)))


def test_a_changed_plain_line_stops_the_merge(dna_in_gpt2: Any) -> None:
    lines = ["the gene is in the cell", "GATTACAGATTACA is a run"]
    good = proof.prove_plain_text(dna_in_gpt2.base, dna_in_gpt2.tokenizer, dna_in_gpt2.vocabulary, lines)
    assert good == {"plain_lines": 1, "plain_lines_changed": 0, "lines_with_domain_sequences": 1}
    lossy = broken(dna_in_gpt2, lambda content: content["model"].update(merges=content["model"]["merges"][50:]))
    with pytest.raises(DataError, match="1 of 1 plain lines changed, for example"):
        proof.prove_plain_text(dna_in_gpt2.base, open_json(lossy), dna_in_gpt2.vocabulary, ["the gene is in the cell"])


@pytest.mark.parametrize(("lines", "held"), [(["GATTACAGATTACA is a run"], 1), (["the gene", "a GATTACAGATTACA", "GATTACAGATTACA"], 2)])
def test_plain_text_that_is_mostly_read_as_sequences_proves_nothing(dna_in_gpt2: Any, lines: list[str], held: int) -> None:
    with pytest.raises(
        DataError, match=rf"merge\.plain_text: {held} of {len(lines)} lines hold what .* for example 'GATTACAGATTACA', so too few are left"
    ):
        proof.prove_plain_text(dna_in_gpt2.base, dna_in_gpt2.tokenizer, dna_in_gpt2.vocabulary, lines)


def test_a_sequence_with_other_tokens_stops_the_merge(dna_in_gpt2: Any) -> None:
    (domain,), (own,), (id_map,) = dna_in_gpt2.vocabulary.domains, dna_in_gpt2.domains, dna_in_gpt2.id_maps
    facts = proof.prove_domain(domain, own.tokenizer, dna_in_gpt2.json, id_map, own.probe)
    assert (facts["sequences"], facts["sequences_changed"], facts["round_trip_failures"]) == (len(own.probe), 0, 0)
    assert 1 < facts["residues_per_token_after"] < 10
    with pytest.raises(DataError, match="does not hold"):
        proof.prove_domain(domain, own.tokenizer, broken(dna_in_gpt2, lambda content: content["model"]["merges"].pop()), id_map, own.probe)
    with pytest.raises(DataError, match=r"the dna sequence .* gets other tokens as a run than from the domain tokenizer"):
        proof.prove_domain(domain, own.tokenizer, broken(dna_in_gpt2, lambda content: content.update(normalizer=None)), id_map, own.probe)


def test_a_token_that_nothing_can_produce_stops_the_merge(dna_in_gpt2: Any) -> None:
    (domain,) = dna_in_gpt2.vocabulary.domains
    assert proof.prove_reachable(domain, dna_in_gpt2.tokenizer) == {"unreachable_tokens": 0}
    dead = broken(dna_in_gpt2, lambda content: content["model"]["merges"].pop())
    with pytest.raises(DataError, match=r"1 domain tokens can never be produced, for example \['[ACGTN]+'\]"):
        proof.prove_reachable(domain, open_json(dead))


class Counting:
    """A tokenizer that counts the texts that it reads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.texts = tokenizer, 0
        self.id_to_token = tokenizer.id_to_token

    def encode_batch(self, texts: list[str], **options: Any) -> Any:
        self.texts += len(texts)
        return self.tokenizer.encode_batch(texts, **options)


def test_every_wordpiece_token_is_reached_by_few_words(base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start) -> None:
    merged = start_merge(base_tokenizer("bert_cased")).add(domain_tokenizer("protein", "wordpiece"))
    (domain,), counting = merged.vocabulary.domains, Counting(merged.tokenizer)
    assert proof.prove_reachable(domain, counting) == {"unreachable_tokens": 0}
    assert counting.texts <= 2 * domain.new_tokens
    short = broken(merged, lambda content: content["model"].update(max_input_chars_per_word=4))  # two residues
    with pytest.raises(DataError, match=r"\d+ domain tokens can never be produced, for example"):
        proof.prove_reachable(domain, open_json(short))


def test_words_with_a_token_begin_with_those_that_hold_it_for_certain() -> None:
    starts = dict.fromkeys(["AC", "A", "C"])
    assert list(proof._words_with("CG", starts, 4)) == ["ACCG", "CCG", "ACG"]  # A and C may be read as AC
    assert list(proof._words_with("CG", starts, 3)) == ["CCG", "ACG"]


def test_a_run_of_an_earlier_domain_is_proved_between_tags_alone(
    base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start
) -> None:
    """RNA without U is written as DNA is: bare in a text, nobody can tell."""
    merged = start_merge(base_tokenizer("gpt2")).add(domain_tokenizer("dna", "bpe"), domain_tokenizer("rna", "bpe"))
    (dna, rna), tokenizer, id_map = merged.vocabulary.domains, merged.domains[1].tokenizer, merged.id_maps[1]
    sequences = ["GAGAGACCAGAGACA", "GAUUACAGAUUACA", "GAGAGA"]
    facts = proof.prove_domain(rna, tokenizer, merged.json, id_map, sequences, [dna])
    assert (facts["sequences"], facts["sequences_changed"], facts["runs_of_earlier_domains"]) == (3, 0, 1)
    with pytest.raises(DataError, match=r"the rna sequence GAGAGACCAGAGACA… gets other tokens as a run"):
        proof.prove_domain(rna, tokenizer, merged.json, id_map, sequences)


def test_random_strings_that_do_not_come_back_stop_the_merge(dna_in_gpt2: Any) -> None:
    def check(tokenizer: Tokenizer) -> dict[str, Any]:
        return proof.prove_random_strings(dna_in_gpt2.base, tokenizer, dna_in_gpt2.vocabulary, 300, np.random.default_rng(1))

    facts = check(dna_in_gpt2.tokenizer)
    assert facts["random_strings"] == 300
    assert 20 < facts["random_strings_with_sequences"] < 280
    assert facts["random_strings_failed"] == 0
    with pytest.raises(DataError, match="of 300 random strings do not come back, for example"):
        check(open_json(broken(dna_in_gpt2, lambda content: content["decoder"]["decoders"].pop())))


# --- text files ----------------------------------------------------------------------------------------------------------------


def test_lines_are_read_plain_and_gzipped_without_the_empty_ones(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.txt").write_text("one\n\n two \n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("drei\r\nfünf".encode()))
    assert proof.read_lines([tmp_path / "a.txt", tmp_path / "b.txt.gz"]) == ["one", " two ", "drei", "fünf"]


def test_text_that_is_not_utf8_or_not_gzip_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"a\.txt: not UTF-8 text \(byte 3\); save it as UTF-8, or name another file"):
        proof.read_lines([tmp_path / "a.txt"])
    (tmp_path / "b.gz").write_bytes(b"no gzip at all")
    with pytest.raises(DataError, match=r"b\.gz: cannot be read as gzipped text: .*; fetch it again"):
        proof.read_lines([tmp_path / "b.gz"])


def test_sampled_lines_are_spread_over_each_source_and_small_sources_count_whole() -> None:
    numbers = [str(i) for i in range(10)]
    assert proof.sample_lines([numbers], 100) == numbers
    assert proof.sample_lines([numbers], 5) == ["0", "2", "4", "6", "8"]
    assert proof.sample_lines([numbers, ["a"]], 5) == ["a", "0", "2", "5", "7"]
    assert proof.sample_lines([[], numbers], 2) == ["0", "5"]


def test_the_base_on_its_own_is_described(base_tokenizer: Bases) -> None:
    assert proof.describe_base(base_tokenizer("bert_cased"), ["中", "A"]) == {"residues_per_token_before": 1.0, "unknown_share_before": 0.5}


def test_unknown_tokens_of_a_unigram_base_are_counted_too(base_tokenizer: Bases) -> None:
    """It spells an unknown token as the text that it stands for; its id tells."""
    assert base_tokenizer("t5").token_to_id("<unk>") in base_tokenizer("t5").encode("中").ids
    assert proof.describe_base(base_tokenizer("t5"), ["中"])["unknown_share_before"] > 0
    assert proof.describe_base(base_tokenizer("t5"), ["A"])["unknown_share_before"] == 0
