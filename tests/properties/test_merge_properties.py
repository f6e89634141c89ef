"""The merge is lossless over any text and any sequence, for every kind of base; not only over those that the stage proves it on."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizers import Tokenizer

KINDS = ["gpt2", "llama3", "qwen", "smollm2", "llama2", "mistral", "bert_uncased", "bert_cased", "t5", "spm"]
MODALITIES = ["dna", "rna", "protein", "smiles"]
OWN_KIND = {"BPE": "bpe", "WordPiece": "wordpiece", "Unigram": "unigram"}
every_kind = pytest.mark.parametrize("kind", KINDS)
either_case = pytest.mark.parametrize("case", ["upper", "any"])
GetMerged = Callable[[str, str], Any]

# What a text is made of where it is hardest: sequences, nearly sequences, tags whole and broken, what joins or splits words.
_FRAGMENTS = [
    "GATTACAGATTACA", "ACGTACGTACGT", "ACGTACGTACG", "ACGUACGUACGU", "GGAACCAGAAAA", "NNNNNNNNNNNN", "acgtacgtacgt",
    "GaTtAcAgAtTaCa", "MKVLAAGIW", "CC(=O)Oc1ccccc1", "[Na+].[Cl-]", "A", "C", "g", " ", "  ", "\n", "\t", "é", "e\u0301",
    "\u0301", "\u20dd", "1", "²", "_", "<", ">", "/", "</", "<<", ".", ",", "-", "'", "'s", "😀", "👩‍🔬", "中", "ß", "İ", "ﬁ",
    "\u200d", "\u00a0", "\u0000", "▁", "⿻", "##", "Ġ", "the", "gene of", "x", "<dna>", "</dna>", "<rna>", "</rna>",
    "<protein>", "</protein>", "<smiles>", "</smiles>", "<DNA>", "< dna>", "<dna>GATTACA</dna>", "<dna>ACGTACGTACGT</dna>",
    "<dna>acgt</dna>", "<rna>ACGU</rna>", "<rna>GGAACCAGAAAA</rna>", "<protein>MKV</protein>",
    "<protein>GATTACAGATTACA</protein>", "<smiles>C1CC1</smiles>", "<smiles>NCCNCNACCACC</smiles>", "<dna></dna>",
    "<dna>AC GT</dna>",
]  # fmt: skip


@pytest.fixture(scope="session")
def merged(
    base_tokenizer: Callable[[str], Tokenizer], domain_tokenizer: Callable[..., Any], start_merge: Callable[[Tokenizer], Any]
) -> GetMerged:
    """merged(kind, case) -> a base of that kind with DNA, RNA, protein and SMILES merged into it."""

    @cache
    def make(kind: str, case: str) -> Any:
        base = base_tokenizer(kind)
        own = OWN_KIND[type(base.model).__name__]
        return start_merge(base).add(*(domain_tokenizer(modality, own) for modality in MODALITIES), case=case)

    return make


@dataclass(frozen=True)
class Found:
    """A sequence in a text: where it stands, and of which domain it is."""

    start: int
    end: int
    modality: str
    residues: str


def sequences_in(merged: Any, text: str) -> list[Found]:
    """What the merged tokenizer must read as sequences, by the rules as a user is told them; written anew, not taken from biollm.

    Special tokens of the base cut a text first. Tags decide before runs; of runs, the domain that was merged first.
    """
    special = "|".join(regex.escape(t.content) for t in merged.base.get_added_tokens_decoder().values())
    borders = [0, *(i for match in regex.finditer(special, text) for i in match.span()), len(text)]
    found: list[Found] = []
    for begin, end in zip(borders[::2], borders[1::2], strict=True):
        found += _in_piece(merged, text[begin:end], begin)
    joined: list[Found] = []
    for one in sorted(found, key=lambda one: one.start):
        last = joined[-1] if joined else None
        if last and last.modality == one.modality and last.end < one.start and not _normalised(merged.base, text[last.end : one.start]):
            joined[-1] = Found(last.start, one.end, one.modality, last.residues + one.residues)  # BERT deletes control characters
        else:
            joined.append(one)
    return joined


def _normalised(base: Tokenizer, text: str) -> str:
    return base.normalizer.normalize_str(text) if base.normalizer else text


def _in_piece(merged: Any, text: str, offset: int) -> Iterator[Found]:
    taken: set[int] = set()
    patterns = []
    for domain in merged.vocabulary.domains:
        letters = "".join(domain.units) + ("".join(domain.units).lower() if domain.folds_case and domain.case == "any" else "")
        some = f"[{regex.escape(letters, special_only=False)}]"
        patterns.append((0, domain, rf"(?<=<{domain.modality}>){some}+(?=</{domain.modality}>)"))
        if domain.min_run:
            patterns.append((1, domain, rf"(?<![\p{{L}}\p{{M}}\p{{N}}]){some}{{{domain.min_run},}}+(?![\p{{L}}\p{{M}}\p{{N}}])"))
    for _, domain, pattern in sorted(patterns, key=lambda row: row[0]):
        for match in regex.finditer(pattern, text):
            if match.start() not in taken:
                taken.update(range(*match.span()))
                residues = match.group().upper() if domain.folds_case else match.group()
                yield Found(offset + match.start(), offset + match.end(), domain.modality, residues)


def fault(merged: Any, text: str) -> str | None:
    """What the merge does to a text that it must not, or None."""
    found, tokenizer, base = sequences_in(merged, text), merged.tokenizer, merged.base
    new, old = tokenizer.encode(text, add_special_tokens=False), base.encode(text, add_special_tokens=False)
    if not found:
        if (new.ids, new.offsets, new.tokens) != (old.ids, old.offsets, old.tokens):
            return f"tokens or offsets of a text without sequence changed: {old.tokens} -> {new.tokens}"
        return None if tokenizer.decode(new.ids) == base.decode(old.ids) else "the decoded text changed"
    wanted = [i for one in found for i in merged.wanted(one.modality, one.residues)]
    if (ids := [i for i in new.ids if i >= merged.base_size]) != wanted:
        return f"sequences {found} have the tokens {[tokenizer.id_to_token(i) for i in ids]}"
    decoded = _without_space(tokenizer.decode(new.ids, skip_special_tokens=False))
    borders = [0, *(i for one in found for i in (one.start, one.end)), len(text)]
    around = [text[begin:end] for begin, end in zip(borders[::2], borders[1::2], strict=True)]
    # what the base itself loses (case, white space, unknown letters) is not the merge's loss
    read = [base.decode(base.encode(part, add_special_tokens=False).ids, skip_special_tokens=False) for part in around]
    whole = "".join(_without_space(part) + one.residues for part, one in zip(read, found, strict=False)) + _without_space(read[-1])
    return None if decoded == whole else f"decoded as {decoded!r} instead of {whole!r}"


def _without_space(text: str) -> str:
    return "".join(text.split())


def random_text(rng: random.Random, merged: Any) -> str:
    """Fragments, special tokens of the base and any assigned Unicode letters but the private ones, in a row."""
    special = [token.content for token in merged.base.get_added_tokens_decoder().values()]
    parts = []
    for _ in range(rng.randint(1, 9)):
        kind = rng.random()
        if kind < 0.75:
            parts.append(rng.choice(_FRAGMENTS))
        elif kind < 0.8:
            parts.append(rng.choice(special))
        else:
            parts += [letter for letter in (chr(rng.randrange(1, 0x30000)) for _ in range(3)) if is_usual(letter)]
    return without_private("".join(parts), merged)


def is_usual(letter: str) -> bool:
    """Assigned, in the Unicode of this Python: what an unassigned code point is depends on the age of a library."""
    return unicodedata.category(letter) not in ("Cn", "Cs")


def without_private(text: str, merged: Any) -> str:
    return text.translate(dict.fromkeys(map(ord, merged.private_letters)))


def faults(merged: Any, texts: Iterator[str]) -> list[tuple[str, str]]:
    return [(text, why) for text in texts if (why := fault(merged, text))]


# --- random strings ------------------------------------------------------------------------------------------------------------


@either_case
@every_kind
def test_random_strings_keep_their_tokens_and_letters(merged: GetMerged, kind: str, case: str) -> None:
    """10,000 in all."""
    made, rng = merged(kind, case), random.Random(f"{kind} {case}")
    texts = [random_text(rng, made) for _ in range(556)]
    assert sum(bool(sequences_in(made, text)) for text in texts[:100]) > 20, "sequences are common among them"
    assert sum(not sequences_in(made, text) for text in texts[:100]) > 20
    assert faults(made, iter(texts)) == []


@every_kind
def test_a_text_may_begin_with_the_sign_that_marks_its_start(merged: GetMerged, kind: str) -> None:
    assert faults(merged(kind, "any"), iter(["⿻GATTACAGATTACA", "⿻⿻GATTACAGATTACA ⿻GATTACAGATTACA", "⿻", "⿻ GATTACAGATTACA"])) == []


@pytest.mark.timeout(6 * 3600)
@pytest.mark.nightly
@every_kind
def test_a_million_random_strings_keep_their_tokens_and_letters(merged: GetMerged, kind: str) -> None:
    made, rng = merged(kind, "any"), random.Random(kind)
    assert faults(made, (random_text(rng, made) for _ in range(1_000_000 // len(KINDS)))) == []


# --- properties ----------------------------------------------------------------------------------------------------------------

_any_text = st.text(st.characters(exclude_categories=("Cn", "Cs")), max_size=60)
_hard_text = st.lists(st.sampled_from(_FRAGMENTS), max_size=8).map("".join)
_residues = {
    "dna": "ACGTN",
    "rna": "ACGUN",
    "protein": "ACDEFGHIKLMNPQRSTVWYXBZUOJ",
    "smiles": "BCNOPSFIclnosbrHa0123456789()[]=#@+-%./\\*:",
}


@settings(max_examples=80)
@given(text=st.one_of(_any_text, _hard_text))
@every_kind
def test_any_text_keeps_its_tokens_and_letters(merged: GetMerged, kind: str, text: str) -> None:
    made = merged(kind, "upper")
    assert fault(made, without_private(text, made)) is None


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize("modality", MODALITIES)
@every_kind
def test_any_sequence_gets_the_domain_tokens_and_comes_back(merged: GetMerged, kind: str, modality: str, data: st.DataObject) -> None:
    made = merged(kind, "upper")
    sequence = data.draw(st.text(_residues[modality], min_size=1, max_size=120))
    domain = next(domain for domain in made.vocabulary.domains if domain.modality == modality)
    wanted = made.wanted(modality, sequence)
    assert made.ids(domain.to_private([sequence])[0]) == wanted
    assert made.domain_ids(f"x<{modality}>{sequence}</{modality}>y") == wanted
    assert made.tokenizer.decode(wanted) == sequence


@settings(max_examples=60)
@given(before=_any_text, behind=_any_text, run=st.text("ACGTN", min_size=12, max_size=80))
@every_kind
def test_text_around_a_run_keeps_its_tokens(merged: GetMerged, kind: str, before: str, run: str, behind: str) -> None:
    """With a line break between, so that the base's own words end there. T5 spells the border of a word as a token of its own."""
    made = merged(kind, "upper")
    texts = [without_private(part, made) for part in (before, behind)]
    if any(sequences_in(made, part) for part in texts):
        return
    ids = made.ids(f"{texts[0]}\n{run}\n{texts[1]}")
    start = next(i for i, number in enumerate(ids) if number >= made.base_size)
    wanted = made.wanted("dna", run)
    assert ids[start : start + len(wanted)] == wanted
    border = made.base.token_to_id("▁") if kind == "t5" else None
    wanted = made.base.encode(f"{texts[0]}\n", add_special_tokens=False).ids
    assert [i for i in ids[:start] if i != border] == [i for i in wanted if i != border]
