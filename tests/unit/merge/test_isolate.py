"""The merge on paper, for every kind of base and domain: JSON in, JSON out."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from biollm.core.errors import ConfigError
from biollm.core.files import canonical_json
from biollm.merge.isolate import strip_recognition
from biollm.merge.proof import sequence_pattern
from biollm.modeling.atom_pieces import AtomPieceEncoder
from biollm.modeling.domain import PREFIX
from biollm.modeling.encoding import sequence_encoder
from biollm.modeling.fastpath import ForeignLetterError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

MergedKind = Callable[..., Any]
SMALL = ["gpt2", "llama3", "qwen", "smollm2", "llama2", "mistral", "bert_uncased", "bert_cased", "t5", "spm"]
REAL = ["real_gpt2", "real_gpt_neox", "real_modernbert", "real_bert_cased", "real_mistral", "real_minilm"]
every_kind = pytest.mark.parametrize("kind", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in REAL)])
every_kind_and_domain = pytest.mark.parametrize(
    ("kind", "modality"),
    [
        *product(SMALL, ["dna", "rna", "protein", "smiles"]),
        *(pytest.param(name, modality, marks=pytest.mark.slow) for name in REAL for modality in ("dna", "smiles")),
    ],
)
every_small_kind = pytest.mark.parametrize("kind", SMALL)

# What may stand before and behind a run of DNA letters that is still one.
AROUND_RUNS = [
    ("", ""), ("a ", ""), ("", " b"), ("The TATA box of ", ", and so on."), ("(", ")"), ("5'-", "-3'"), ("x\n", "\ny"), ("\t", "\t"),
    ("=", ";"), ("😀", "😀"), ("…", "…"), ("_", "_"), ("\u00a0", "\u00a0"), ("<", ">"), ("</dna>", "<dna>"), ("##", "##"), ("'s ", "'s"),
]  # fmt: skip
AROUND_TAGS = [("", ""), ("a ", " b"), ("a", "b"), ("Of ", ", x"), ("\n", "\n"), ("1", "2"), ("<", ">"), ("</dna>", "<dna>"), ("é", "é")]
# What is text, though it looks like a sequence: a letter, digit or combining mark touches it, or a tag is none.
NOT_SEQUENCES = [
    "GATTACAGATT A", "GATTACAGATT", "xGATTACAGATTACA", "GATTACAGATTACAx", "GATTACAGATTACA1", "1GATTACAGATTACA", "GATTACAGATTACAé",
    "GATTACAGATTACA\u0301", "GATTACAGATTACA\u20dd", "²GATTACAGATTACA", "GATTACAGATTACA中", "<dna>GATTACA", "GATTACA</dna>",
    "<dna>GATTACA</rna>", "<dna></dna>", "<dna> GATTACA</dna>", "<dna>GAT TACA</dna>", "<dna>GATXACA</dna>", "<DNA>GATTACA</DNA>",
    "< dna>GATTACA</dna>", "<dna >GATTACA</dna>", "<dna><dna>GATX</dna></dna>", "<protein>MKV*</protein>", "<smiles>C C</smiles>",
    "<protein>mkv</protein>", "<dna>gattaca</dna>", "gattacagattaca", "GATTACAgATTACA", "<rna>GATTACA</rna>", "<protein></protein>",
]  # fmt: skip


def some_sequences(merged: Any, modality: str, seed: int = 0) -> list[str]:
    """Real sequences in several lengths, and random ones over all residues."""
    rng = random.Random(f"{modality} {seed}")
    domain = next(domain for domain in merged.domains if domain.spec.modality == modality)
    real = [domain.probe[i % len(domain.probe)][: rng.choice([5, 12, 40, 130, 400])] for i in range(8)]
    return [*real, *("".join(rng.choices(domain.spec.residues, k=k)) for k in (1, 2, 11, 12, 13, 33, 34, 100))]


def as_text(modality: str, sequence: str) -> Iterator[tuple[str, bool]]:
    """Texts that hold a sequence, and whether they hold nothing else."""
    # an RNA without U is spelt as a DNA, and is one outside of tags
    if (modality == "dna" or (modality == "rna" and set("Uu") & set(sequence))) and len(sequence) >= 12:
        yield from ((f"{before}{sequence}{behind}", before + behind == "") for before, behind in AROUND_RUNS)
    yield from ((f"{before}<{modality}>{sequence}</{modality}>{behind}", False) for before, behind in AROUND_TAGS)


# --- the base stays what it was ------------------------------------------------------------------------------------------------


@every_kind
def test_base_ids_survive_merge_and_new_ids_follow(merged_kind: MergedKind, kind: str) -> None:
    merged = merged_kind(kind)
    vocabulary = merged.base.get_vocab()
    assert {token: merged.tokenizer.token_to_id(token) for token in vocabulary} == vocabulary
    new = [number for domain in merged.vocabulary.domains for number in domain.ids]
    assert new == list(range(merged.base_size, merged.tokenizer.get_vocab_size()))


@every_kind
def test_plain_text_keeps_tokens_offsets_and_decoded_text(
    merged_kind: MergedKind, plain_lines: Callable[[int], list[str]], kind: str
) -> None:
    merged = merged_kind(kind)
    pattern = sequence_pattern(merged.vocabulary.isolated)
    lines = [line for line in plain_lines(600) if not pattern.search(line)]
    assert len(lines) > 590
    texts = [
        *lines,
        "",
        " ",
        "\n",
        "  two  spaces ",
        "naïve β-catenin 😀 中文 e\u0301",
        "⿻",
        "a ⿻ b ⿻⿻",
        "▁ ##x Ġ",
        "ACGT acgt <dna>",
        "İß ﬁ",
    ]
    for special in (True, False):
        before, after = (t.encode_batch(texts, add_special_tokens=special) for t in (merged.base, merged.tokenizer))
        for text, old, new in zip(texts, before, after, strict=True):
            assert (new.tokens, new.ids, new.offsets) == (old.tokens, old.ids, old.offsets), text
            assert merged.tokenizer.decode(new.ids) == merged.base.decode(old.ids), text


@every_small_kind
def test_what_only_looks_like_a_sequence_is_text(merged_kind: MergedKind, kind: str) -> None:
    merged = merged_kind(kind)
    changed = [text for text in NOT_SEQUENCES if merged.ids(text) != merged.base.encode(text, add_special_tokens=False).ids]
    assert changed == []


@every_kind
def test_special_tokens_and_post_processor_are_those_of_the_base(merged_kind: MergedKind, kind: str) -> None:
    merged = merged_kind(kind)
    base = json.loads(merged.base.to_str())
    assert merged.json["post_processor"] == base["post_processor"]
    assert [token["content"] for token in merged.json["added_tokens"]] == [token["content"] for token in base["added_tokens"]]
    special = [token["content"] for token in base["added_tokens"] if token["special"]]
    assert special, "each of these bases has some"
    for token in special:
        text = f"a{token}GATTACAGATTACA{token}<dna>GATTACA</dna>"
        assert merged.ids(text).count(merged.base.token_to_id(token)) == 2
        assert merged.domain_ids(text) == merged.wanted("dna", "GATTACAGATTACA") + merged.wanted("dna", "GATTACA")


def test_truncation_and_padding_of_the_base_are_not_the_merge_s_business(
    base_tokenizer: Callable[[str], Tokenizer], domain_tokenizer: Callable[..., Any], start_merge: Callable[[Tokenizer], Any]
) -> None:
    """The stage switches them off before; on paper they are left as they are."""
    merged = start_merge(base_tokenizer("gpt2")).add(domain_tokenizer("dna", "bpe"))
    assert (merged.json["truncation"], merged.json["padding"]) == (None, None)


# --- sequences are read as the domain tokenizer reads them ---------------------------------------------------------------------


@every_kind_and_domain
def test_a_sequence_gets_the_domain_tokens_wherever_it_stands(merged_kind: MergedKind, kind: str, modality: str) -> None:
    merged = merged_kind(kind)
    for sequence in some_sequences(merged, modality):
        wanted = merged.wanted(modality, sequence)
        for text, alone in as_text(modality, sequence):
            found = merged.ids(text)
            assert (found if alone else [i for i in found if i >= merged.base_size]) == wanted, text
            assert sequence in merged.tokenizer.decode(found), text


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "bert_uncased"])
def test_a_run_as_long_as_a_small_chromosome_is_read(merged_kind: MergedKind, kind: str) -> None:
    """A rule that reads on to the end of the run from each letter took 55 s for 80,000, and would take half an hour for these."""
    merged, sequence = merged_kind(kind), "".join(random.Random(0).choices("ACGT", k=500_000))
    assert merged.ids(sequence) == merged.wanted("dna", sequence)
    assert merged.domain_ids(sequence + "x") == [], "it goes on as a word, so it is text"


@every_kind_and_domain
def test_private_spelling_gives_the_domain_tokens_and_decode_gives_the_letters_back(
    merged_kind: MergedKind, kind: str, modality: str
) -> None:
    merged = merged_kind(kind)
    domain = next(domain for domain in merged.vocabulary.domains if domain.modality == modality)
    sequences = some_sequences(merged, modality, seed=1)
    for sequence, private in zip(sequences, domain.to_private(sequences), strict=True):
        wanted = merged.wanted(modality, sequence)
        assert merged.ids(private) == wanted
        assert merged.tokenizer.decode(wanted) == sequence
        if domain.folds_case:
            assert domain.to_private([sequence.lower()]) == [private]


@pytest.mark.parametrize("modality", ["dna", "rna", "protein"])
@every_small_kind
def test_with_case_any_lower_case_letters_are_the_same_sequence(merged_kind: MergedKind, kind: str, modality: str) -> None:
    merged, rng = merged_kind(kind, "any"), random.Random(0)
    for sequence in some_sequences(merged, modality)[::2]:
        wanted = merged.wanted(modality, sequence)
        for spelt in (sequence, sequence.lower(), "".join(rng.choice([letter, letter.lower()]) for letter in sequence)):
            for text, _ in list(as_text(modality, spelt))[::3]:
                assert merged.domain_ids(text) == wanted, text
                assert sequence in merged.tokenizer.decode(merged.ids(text)), text


@every_small_kind
def test_smiles_keep_their_case_under_either_policy(merged_kind: MergedKind, kind: str) -> None:
    for case in ("upper", "any"):
        merged = merged_kind(kind, case)
        assert merged.wanted("smiles", "Cc1ccccc1") != merged.wanted("smiles", "CC1CCCCC1")
        for sequence in ("Cc1ccccc1", "CC1CCCCC1", "[Na+].[Cl-]", "C/C=C\\C", "*:$%12"):
            text = f"of <smiles>{sequence}</smiles>"
            assert merged.domain_ids(text) == merged.wanted("smiles", sequence)
            assert sequence in merged.tokenizer.decode(merged.ids(text))


@every_small_kind
def test_tags_decide_what_letters_mean(merged_kind: MergedKind, kind: str) -> None:
    """GATTACA… is DNA as a run, protein between <protein>, SMILES between <smiles>; adjacent and several in one text."""
    merged, letters = merged_kind(kind), "NCCNCNACCACCAC"
    assert merged.domain_ids(letters) == merged.wanted("dna", letters)
    assert merged.domain_ids(f"<protein>{letters}</protein>") == merged.wanted("protein", letters)
    assert merged.domain_ids(f"<smiles>{letters[:5]}</smiles>") == merged.wanted("smiles", letters[:5])
    text = f"<protein>{letters}</protein><dna>A</dna><rna>ACGU</rna> {letters}\n<smiles>CCO</smiles>{letters}"
    wanted = [("protein", letters), ("dna", "A"), ("rna", "ACGU"), ("dna", letters), ("smiles", "CCO"), ("dna", letters)]
    assert merged.domain_ids(text) == [i for modality, part in wanted for i in merged.wanted(modality, part)]


def test_a_space_before_a_sequence_stays_and_the_base_s_own_goes(merged_kind: MergedKind) -> None:
    """Metaspace puts a ▁ before every text: nothing that a user wrote, where a sequence begins the text. Also where tags are in it."""
    merged = merged_kind("mistral")
    space, (special, *_) = merged.base.token_to_id("▁"), [i for i, t in merged.base.get_added_tokens_decoder().items() if t.special]
    for letters, modality in (("GATTACAGATTACA", "dna"), ("ACGUACGUACGU", "rna")):
        for tags in ("", "\n<protein>MKV</protein>", "\n<smiles>"):
            wanted, start = merged.wanted(modality, letters), merged.base.id_to_token(special)
            for text, first in (
                (letters, []),
                (f" {letters}", [space]),
                (start + letters, [special]),
                (f"{start} {letters}", [special, space]),
            ):
                assert merged.ids(text + tags)[: len(first) + len(wanted)] == first + wanted, text + tags


@every_small_kind
def test_a_tag_inside_tags_or_without_partner_leaves_the_whole_pair_a_pair(merged_kind: MergedKind, kind: str) -> None:
    merged = merged_kind(kind)
    for text in ("<dna><dna>GATTACA</dna></dna>", "<dna>GATTACA</dna></dna>", "<dna>X<dna>GATTACA</dna>", "<protein><dna>GATTACA</dna>"):
        assert merged.domain_ids(text) == merged.wanted("dna", "GATTACA"), text
    for text in ("<dna>GATTACAGATTACA", "GATTACAGATTACA</dna>", "<dna>GATTACAGATTACA</rna>"):
        assert merged.domain_ids(text) == merged.wanted("dna", "GATTACAGATTACA"), f"{text} is a run beside a tag"


@every_small_kind
def test_text_that_holds_private_letters_does_not_crash_and_changes_nothing_else(merged_kind: MergedKind, kind: str) -> None:
    """A private letter in a text is a sign for biollm: what stands around it keeps its meaning."""
    merged = merged_kind(kind)
    for letter in merged.private_letters:
        for text in (
            letter,
            letter * 3,
            f"a {letter} b",
            f"{letter}G",
            f"x{letter}",
            f"GATTACAGATTACA {letter}",
            f"{letter}GATTACAGATTACA",
        ):
            merged.tokenizer.decode(merged.ids(text))
        spaced = merged.ids(f"the gene {letter} GATTACAGATTACA")
        assert spaced[-len(merged.wanted("dna", "GATTACAGATTACA")) :] == merged.wanted("dna", "GATTACAGATTACA")


@pytest.mark.parametrize(
    ("base", "kind", "modality"),
    [
        ("gpt2", "char", "dna"),
        ("llama3", "char", "smiles"),
        ("mistral", "char", "protein"),
        ("bert_cased", "char", "protein"),
        ("bert_uncased", "char", "smiles"),
        ("bert_uncased", "kmer", "dna"),
        ("bert_cased", "kmer", "rna"),
        ("t5", "char", "smiles"),
        ("t5", "kmer", "dna"),
    ],
)
def test_characters_and_kmers_serve_too(
    base_tokenizer: Callable[[str], Tokenizer],
    domain_tokenizer: Callable[..., Any],
    start_merge: Callable[[Tokenizer], Any],
    base: str,
    kind: str,
    modality: str,
) -> None:
    merged = start_merge(base_tokenizer(base)).add(domain_tokenizer(modality, kind))
    for sequence in some_sequences(merged, modality):
        wanted = merged.wanted(modality, sequence)
        assert merged.ids(merged.vocabulary.domains[0].to_private([sequence])[0]) == wanted
        assert merged.tokenizer.decode(wanted) == sequence
        for text, _ in list(as_text(modality, sequence))[::4]:
            assert merged.domain_ids(text) == wanted, text


def test_runs_and_tags_can_be_switched_on_and_off(
    base_tokenizer: Callable[[str], Tokenizer], domain_tokenizer: Callable[..., Any], start_merge: Callable[[Tokenizer], Any]
) -> None:
    start, dna, protein = start_merge(base_tokenizer("gpt2")), domain_tokenizer("dna", "bpe"), domain_tokenizer("protein", "bpe")
    run, tagged = "GATTACAGATTACA", "<dna>GATTACA</dna>"
    only_tags, only_runs = start.add(dna, runs=False), start.add(dna, tags=False)
    assert (only_tags.domain_ids(run), only_tags.domain_ids(tagged)) == ([], only_tags.wanted("dna", "GATTACA"))
    assert (only_runs.domain_ids(run), only_runs.domain_ids(tagged)) == (only_runs.wanted("dna", run), [])
    protein_runs = start.add(protein, runs=True)
    assert protein_runs.domain_ids("MKVLAAGIWYTR") == protein_runs.wanted("protein", "MKVLAAGIWYTR")
    longer = start.add(dna, min_run=20)
    assert (longer.domain_ids("GATTACA" * 2), longer.domain_ids("GATTACA" * 3)) == ([], longer.wanted("dna", "GATTACA" * 3))


# --- the vocabulary -----------------------------------------------------------------------------------------------------------


@every_small_kind
def test_no_domain_token_is_unreachable_and_none_is_an_added_token(merged_kind: MergedKind, kind: str) -> None:
    from biollm.merge.proof import prove_reachable

    merged = merged_kind(kind)
    for domain in merged.vocabulary.domains:
        assert prove_reachable(domain, merged.tokenizer) == {"unreachable_tokens": 0}
    assert all(number < merged.base_size for number in merged.tokenizer.get_added_tokens_decoder())


@every_small_kind
def test_tokens_read_as_the_residues_that_they_stand_for(merged_kind: MergedKind, kind: str) -> None:
    merged = merged_kind(kind)
    texts = merged.vocabulary.readable(merged.tokenizer)
    counts = merged.vocabulary.residues_by_id(merged.tokenizer)
    assert len(counts) == merged.tokenizer.get_vocab_size()
    assert not counts[: merged.base_size].any()
    for (domain, own), id_map in zip(merged.parts(), merged.id_maps, strict=True):
        for domain_id, number in id_map.items():
            residues = own.tokenizer.id_to_token(domain_id).removeprefix(PREFIX)
            assert (texts[number - merged.base_size], counts[number]) == (residues, len(residues))
        assert not counts[domain.first_id : domain.first_id + domain.scaffold_tokens].any()


# --- the file -----------------------------------------------------------------------------------------------------------------


@every_small_kind
def test_one_go_is_one_domain_after_the_other_and_ids_are_stable(
    merged_kind: MergedKind, domain_tokenizer: Callable[..., Any], start_merge: Callable[[Tokenizer], Any], kind: str
) -> None:
    whole = merged_kind(kind)
    step = start_merge(whole.base)
    for domain, mapped in zip(whole.domains, whole.id_maps, strict=True):
        content = json.loads(Tokenizer.from_str(canonical_json(step.json)).to_str())  # as written and read again
        before = Tokenizer.from_str(canonical_json(content)).get_vocab()
        step = replace(step, json=content).add(domain)
        assert step.id_maps[-1] == mapped
        assert {token: step.tokenizer.token_to_id(token) for token in before} == before
    assert step.tokenizer.to_str() == whole.tokenizer.to_str()
    assert step.vocabulary == whole.vocabulary


@every_small_kind
def test_fifty_times_saved_and_loaded_is_the_same_bytes(merged_kind: MergedKind, kind: str) -> None:
    first = text = merged_kind(kind).tokenizer.to_str()
    for _ in range(50):
        text = Tokenizer.from_str(text).to_str()
        assert text == first


@every_small_kind
def test_the_rules_can_be_taken_away_again(merged_kind: MergedKind, kind: str) -> None:
    merged = merged_kind(kind)
    bare = strip_recognition(json.loads(merged.tokenizer.to_str()), merged.vocabulary.isolated)
    base = json.loads(merged.base.to_str())
    flat = Tokenizer.from_str(canonical_json(bare))
    for text in ("the GATTACAGATTACA <dna>GATTACA</dna>", "  a\nb"):
        assert flat.encode(text).ids == merged.base.encode(text).ids
    assert bare["post_processor"] == base["post_processor"]


@every_small_kind
def test_the_merge_changes_nothing_that_it_was_given(merged_kind: MergedKind, kind: str) -> None:
    merged = merged_kind(kind)
    before, vocabulary = copy.deepcopy(merged.json), merged.vocabulary.model_copy(deep=True)
    one = type(merged)(merged.base, [], json.loads(merged.base.to_str()), vocabulary.model_copy(update={"domains": []}), [])
    given = copy.deepcopy(one.json)
    one.add(merged.domains[0])
    assert one.json == given
    assert (merged.json, merged.vocabulary) == (before, vocabulary)


@pytest.mark.parametrize("kind", ["gpt2", "bert_uncased", "mistral"])
def test_added_tokens_of_the_base_that_are_no_special_ones_stay(
    base_tokenizer: Callable[[str], Tokenizer], domain_tokenizer: Callable[..., Any], start_merge: Callable[[Tokenizer], Any], kind: str
) -> None:
    base = Tokenizer.from_str(base_tokenizer(kind).to_str())
    base.add_tokens([AddedToken("p53mut", normalized=True), AddedToken("HLA-B*57", normalized=False, single_word=True)])
    own = {"gpt2": "bpe", "bert_uncased": "wordpiece", "mistral": "bpe"}[kind]
    merged = start_merge(base).add(domain_tokenizer("dna", own))
    for text in ("the p53mut gene", "HLA-B*57 and HLA-B*57x", "p53mut p53mut", "xp53mut"):
        assert merged.ids(text) == base.encode(text, add_special_tokens=False).ids, text
    assert merged.domain_ids("p53mut GATTACAGATTACA") == merged.wanted("dna", "GATTACAGATTACA")


def test_a_base_whose_normaliser_changes_a_letter_gets_the_next_one(
    base_tokenizer: Callable[[str], Tokenizer], domain_tokenizer: Callable[..., Any], start_merge: Callable[[Tokenizer], Any]
) -> None:
    plain = start_merge(base_tokenizer("gpt2")).add(domain_tokenizer("dna", "bpe"))
    mark = plain.vocabulary.domains[0].mark
    base = Tokenizer.from_str(base_tokenizer("gpt2").to_str())
    base.normalizer = normalizers.Replace(mark, "x")
    merged = start_merge(base).add(domain_tokenizer("dna", "bpe"))
    assert merged.vocabulary.domains[0].mark != mark
    assert merged.ids(f"a {mark} b") == base.encode(f"a {mark} b", add_special_tokens=False).ids, "in this base it is an ordinary letter"
    assert merged.ids("GATTACAGATTACA") == merged.wanted("dna", "GATTACAGATTACA")


def test_domain_pieces_do_not_change_what_an_unknown_letter_costs_in_a_unigram_base(
    domain_tokenizer: Callable[..., Any], start_merge: Callable[[Tokenizer], Any]
) -> None:
    """It costs 10 more than the least likely piece of the vocabulary: here 14.25, so that v + wxyz (14.75) beats vw + x + y + z (17)."""
    pieces = [("<unk>", 0.0), ("▁", -1.0), ("wxyz", -0.5), *((piece, -4.25) for piece in ("vw", "x", "y", "z"))]
    base = Tokenizer(models.Unigram(pieces, unk_id=0))
    base.pre_tokenizer = pre_tokenizers.Metaspace()
    base.decoder = decoders.Metaspace()
    domain = domain_tokenizer("dna", "unigram")
    assert min(score for _, score in json.loads(domain.tokenizer.to_str())["model"]["vocab"]) < -8, "with these it would cost 18 or more"
    assert base.encode("vwxyz").ids == [1, 0, 2]
    merged = start_merge(base).add(domain)
    assert merged.ids("vwxyz") == [1, 0, 2]
    assert merged.ids("GATTACAGATTACANN") == merged.wanted("dna", "GATTACAGATTACANN")


@pytest.mark.parametrize(("kind", "coded"), [("gpt2", False), ("llama3", False), ("qwen", False), ("smollm2", True)])
def test_residues_that_are_no_letters_need_no_codes_among_words_of_letters(merged_kind: MergedKind, kind: str, coded: bool) -> None:
    smiles = next(domain for domain in merged_kind(kind).vocabulary.domains if domain.modality == "smiles")
    assert any(len(unit) > 2 for unit in smiles.units.values()) == coded


@pytest.mark.parametrize("strip", [[], [{"type": "Strip", "strip_left": False, "strip_right": True}]])
def test_a_base_with_spaces_in_front_gets_them_by_its_normaliser(
    base_tokenizer: Callable[[str], Tokenizer],
    domain_tokenizer: Callable[..., Any],
    start_merge: Callable[[Tokenizer], Any],
    strip: list[dict[str, Any]],
) -> None:
    """Each rule beside Metaspace would be tried at every word; nothing stands there."""
    base = json.loads(base_tokenizer("spm").to_str())
    base["normalizer"]["normalizers"][-1:-1] = strip  # as flan-T5 has it: at the end of a text first, then spaces are collapsed
    domains = [domain_tokenizer(modality, "unigram") for modality in ("dna", "protein")]
    merged = start_merge(Tokenizer.from_str(json.dumps(base))).add(*domains)
    assert merged.json["pre_tokenizer"]["type"] == "Metaspace"
    assert merged.ids("GATTACAGATTACA") == merged.wanted("dna", "GATTACAGATTACA")
    assert merged.domain_ids(" a (GATTACAGATTACA)") == merged.wanted("dna", "GATTACAGATTACA")
    for text in ("", " ", "  ", " a", "a  b ", "▁", "▁a", "a ▁ b", " ▁a ", "<", "<protein>", " <protein>MKV"):
        own, wanted = (tokenizer.encode(text) for tokenizer in (merged.tokenizer, merged.base))
        assert (own.ids, own.offsets) == (wanted.ids, wanted.offsets), text


def test_a_base_that_cuts_at_whitespace_has_one_rule_for_each_word(
    base_tokenizer: Callable[[str], Tokenizer], domain_tokenizer: Callable[..., Any], start_merge: Callable[[Tokenizer], Any]
) -> None:
    """Its own cut at each ▁ of a text is made by the normaliser, once for the text."""
    domains = [domain_tokenizer(modality, "unigram") for modality in ("dna", "protein")]
    merged = start_merge(base_tokenizer("t5")).add(*domains)
    words = merged.json["pre_tokenizer"]["pretokenizers"]
    assert [part["type"] for part in words] == ["WhitespaceSplit", "Metaspace", "Split"]
    assert not words[1]["split"]
    for text in ("▁", "▁▁", "a▁b", "▁a▁", " ▁ a", "a ▁▁ b", "é▁e\u0301", "<protein>▁"):
        own, wanted = (tokenizer.encode(text) for tokenizer in (merged.tokenizer, merged.base))
        assert (own.ids, own.offsets) == (wanted.ids, wanted.offsets), text
    assert merged.domain_ids("▁GATTACAGATTACA▁a") == merged.wanted("dna", "GATTACAGATTACA")


@pytest.mark.parametrize("kind", ["t5", "spm"])
@pytest.mark.parametrize("shift", [0.0, 1e-6])
def test_what_stands_before_a_sequence_in_its_word_decides_no_ties_in_a_unigram_base(
    base_tokenizer: Callable[[str], Tokenizer],
    domain_tokenizer: Callable[..., Any],
    start_merge: Callable[[Tokenizer], Any],
    kind: str,
    shift: float,
) -> None:
    """Scores in steps add exactly to those of the pieces before them. Others, as earlier versions gave them, need a cut."""
    domain, rng = domain_tokenizer("dna", "unigram"), random.Random(kind)
    content = json.loads(domain.tokenizer.to_str())
    content["model"]["vocab"] = [[piece, score - shift * rng.random()] for piece, score in content["model"]["vocab"]]
    merged = start_merge(base_tokenizer(kind)).add(replace(domain, tokenizer=Tokenizer.from_str(json.dumps(content))))
    assert merged.vocabulary.domains[0].needs_cut == bool(shift)
    for _ in range(300):
        before, sequence = "".join(rng.choices("(-.,;:", k=rng.choice([1, 5, 2000]))), "".join(rng.choices("ACGT", k=rng.randint(12, 200)))
        assert merged.domain_ids(f"{before}({sequence})") == merged.domain_ids(f"<dna>{sequence}</dna>")
        assert shift or merged.domain_ids(sequence) == merged.wanted("dna", sequence), "the file gives these scores to the last bit"


def test_pieces_of_smiles_end_between_atoms_by_every_path(
    base_tokenizer: Callable[[str], Tokenizer], domain_tokenizer: Callable[..., Any], start_merge: Callable[[Tokenizer], Any]
) -> None:
    """Domain tokenizer, merged tokenizer and fast path cut alike, also where a piece of 16 would end in Cl, in brackets or in %12."""
    merged = start_merge(base_tokenizer("bert_uncased")).add(domain_tokenizer("dna", "wordpiece"), domain_tokenizer("smiles", "wordpiece"))
    domain = merged.vocabulary.domains[1]
    heads = ["C" * n for n in range(12, 18)]
    atoms = ["Cl", "Br", "[nH]", "[C@@H]", "%12", "%(123)", "[13CH3]", "[" + "C" * 20 + "]", "]", "%", "l", ")", "(C)", "12)"]
    sequences = [head + atom + "C" * 9 for head in heads for atom in atoms]
    fast = sequence_encoder(merged.json, domain)
    assert isinstance(fast, AtomPieceEncoder)
    for sequence, ids in zip(sequences, fast.encode(sequences), strict=True):
        wanted = merged.wanted("smiles", sequence)
        assert ids.tolist() == wanted, sequence
        assert merged.domain_ids(f"a <smiles>{sequence}</smiles>.") == wanted, sequence
        assert merged.tokenizer.decode(wanted) == sequence
    with pytest.raises(ForeignLetterError, match="sequence number 1 holds '!' at position 33"):
        fast.encode(["CC", "C" * 32 + "!"])
    assert next(iter(fast.encode(["", "C"]))).tolist() == []


def test_a_smiles_tokenizer_that_cuts_through_atoms_is_refused(
    base_tokenizer: Callable[[str], Tokenizer], domain_tokenizer: Callable[..., Any], start_merge: Callable[[Tokenizer], Any]
) -> None:
    good = domain_tokenizer("smiles", "wordpiece")
    old = Tokenizer.from_str(good.tokenizer.to_str())
    old.pre_tokenizer = pre_tokenizers.Split(Regex(".{1,16}"), "isolated")
    with pytest.raises(ConfigError, match="this SMILES tokenizer cuts through atoms, as those of earlier versions do; train it again"):
        start_merge(base_tokenizer("bert_cased")).add(replace(good, tokenizer=old))
