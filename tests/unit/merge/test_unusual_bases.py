"""Bases with added tokens, normalisers and scores that few have: text stays as it was, or the merge says why it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from biollm.core.errors import ConfigError
from biollm.merge.continuation import continue_tokenizer
from biollm.merge.isolate import strip_recognition
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

Bases = Callable[[str], Tokenizer]
Domains = Callable[..., Any]
Start = Callable[[Tokenizer], Any]

_COLLAPSED = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}
_STRIPPED = {"type": "Strip", "strip_left": False, "strip_right": True}
_DELETING = {"type": "Replace", "pattern": {"String": "\u200b"}, "content": ""}


def with_tokens(base: Tokenizer, *tokens: AddedToken | str) -> Tokenizer:
    changed = Tokenizer.from_str(base.to_str())
    changed.add_tokens(list(tokens))
    return changed


def with_normalisers(base: Tokenizer, *parts: dict[str, Any]) -> Tokenizer:
    content = json.loads(base.to_str())
    content["normalizer"] = {"type": "Sequence", "normalizers": list(parts)}
    return Tokenizer.from_str(json.dumps(content))


def small_unigram(*pieces: tuple[str, float]) -> Tokenizer:
    base = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -2.0), *pieces], unk_id=0))
    base.normalizer, base.pre_tokenizer, base.decoder = normalizers.NFKC(), pre_tokenizers.Metaspace(), decoders.Metaspace()
    return base


def assert_unchanged(merged: Any, texts: Iterable[str]) -> None:
    for text in texts:
        own, wanted = (tokenizer.encode(text) for tokenizer in (merged.tokenizer, merged.base))
        assert (own.tokens, own.ids, own.offsets) == (wanted.tokens, wanted.ids, wanted.offsets), text


def puts_space_by_normaliser(merged: Any) -> bool:
    return bool(merged.json["pre_tokenizer"].get("prepend_scheme") == "never")


# --- the space in front -------------------------------------------------------------------------------------------------------


def test_added_tokens_that_are_looked_for_in_normalised_text_get_no_space_in_front(
    base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start
) -> None:
    base, domains = base_tokenizer("spm"), [domain_tokenizer(modality, "unigram") for modality in ("dna", "protein")]
    merged = start_merge(with_tokens(base, "brca")).add(*domains)
    assert_unchanged(merged, ["the brca gene", "xbrcab", "brca", " brca", "brcabrca", "a\nbrca x", "<protein>brca", "", " "])
    assert merged.domain_ids("xbrca GATTACAGATTACA brca") == merged.wanted("dna", "GATTACAGATTACA")
    assert merged.domain_ids("brca<protein>MKV</protein>brca") == merged.wanted("protein", "MKV")
    assert puts_space_by_normaliser(start_merge(with_tokens(base, AddedToken("brca", normalized=False))).add(*domains))


@pytest.mark.parametrize(
    ("parts", "spaced"),
    [
        ([{"type": "NFKC"}], False),
        ([{"type": "Nmt"}, {"type": "NFKC"}], False),
        ([_STRIPPED, _COLLAPSED, {"type": "NFKC"}], False),
        ([{"type": "NFKC"}, _COLLAPSED, _STRIPPED], False),  # a ▁ that was collapsed is not stripped
        ([_DELETING], False),
        ([{"type": "Nmt"}, {"type": "NFKC"}, _COLLAPSED], False),  # a text of nothing but a letter that goes
        ([{"type": "NFKC"}, _STRIPPED, _COLLAPSED], True),
        ([{"type": "Nmt"}, {"type": "NFKC"}, _STRIPPED, _COLLAPSED], True),
        ([{"type": "Lowercase"}], True),
        ([], True),
    ],
)
def test_a_normaliser_that_makes_white_space_gets_no_space_in_front_of_it(
    base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start, parts: list[dict[str, Any]], spaced: bool
) -> None:
    domains = [domain_tokenizer(modality, "unigram") for modality in ("dna", "protein")]
    merged = start_merge(with_normalisers(base_tokenizer("spm"), *parts)).add(*domains)
    assert puts_space_by_normaliser(merged) == spaced
    made = ("\u00a0", "\u3000", "\u200b", "\n", "\x00", "\u00a8", "\u200b ", "\u00a0▁", "\u00a0\u00a0")
    assert_unchanged(
        merged, [text for letter in made for text in (letter, f"{letter}a", f"a{letter}", f" {letter}a", f"{letter}<protein>")]
    )
    for text in ("\x01", "\x01a", "\x01 a", "\x01▁a", " \x01 a"):  # the first token may begin at the letter that goes, not behind it
        assert merged.tokenizer.encode(text).tokens == merged.base.encode(text).tokens, text
    assert merged.domain_ids("\u00a0GATTACAGATTACA") == merged.wanted("dna", "GATTACAGATTACA")
    again = strip_recognition(json.loads(merged.tokenizer.to_str()), merged.vocabulary.isolated)
    assert again["pre_tokenizer"] == json.loads(merged.base.to_str())["pre_tokenizer"]


def test_the_smallest_base_that_makes_white_space(domain_tokenizer: Domains, start_merge: Start) -> None:
    merged = start_merge(small_unigram(("▁a", -3.0), ("a", -3.0))).add(domain_tokenizer("dna", "unigram"))
    assert merged.tokenizer.encode("\u00a0a").tokens == ["▁a"]


# --- added tokens that the model has to know ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t5", "spm"])
def test_letters_that_are_normalised_to_a_special_token_are_none(
    base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start, kind: str
) -> None:
    merged = start_merge(base_tokenizer(kind)).add(domain_tokenizer("dna", "unigram"))
    assert_unchanged(merged, ["＜extra_id_1＞", "a＜extra_id_1＞ b", "a<extra_id_1>b", "中<extra_id_1>中＜extra_id_2＞"])
    assert merged.base.token_to_id("<extra_id_1>") in merged.ids("a <extra_id_1> b")


def test_words_of_their_own_are_no_part_of_longer_ones_in_a_unigram_base(domain_tokenizer: Domains, start_merge: Start) -> None:
    base = with_tokens(small_unigram(*((letter, -3.0) for letter in "food")), AddedToken("foo", single_word=True, normalized=False))
    merged = start_merge(base).add(domain_tokenizer("dna", "unigram"))
    assert_unchanged(merged, ["food", "foo", "a foo d", "fooood foo-d"])
    assert merged.base.token_to_id("foo") in merged.ids("foo d")


def test_a_token_that_scores_less_than_text_does_not_change_what_is_continued(base_tokenizer: Bases) -> None:
    content = json.loads(base_tokenizer("t5").to_str())
    with_them = continue_tokenizer(content, ["hyperchylomicronemia hyperkeratosis "] * 9, 3).merged["model"]["vocab"][-3:]
    bare = content | {"added_tokens": content["added_tokens"][:3]}
    assert with_them == continue_tokenizer(bare, ["hyperchylomicronemia hyperkeratosis "] * 9, 3).merged["model"]["vocab"][-3:]


def test_a_special_token_added_between_two_merges_is_kept(base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start) -> None:
    once = start_merge(base_tokenizer("spm")).add(domain_tokenizer("dna", "unigram"))
    chatting = with_tokens(once.tokenizer, AddedToken("<chat>", special=True, normalized=False))
    both = replace(once, base=chatting, json=json.loads(chatting.to_str())).add(domain_tokenizer("protein", "unigram"))
    assert_unchanged(both, ["a<chat>b", "＜chat＞", "the gene<chat> GATTACAGATTACA"])
    assert both.tokenizer.token_to_id("<chat>") == chatting.token_to_id("<chat>")
    assert both.domain_ids("<chat><protein>MKV</protein>") == both.wanted("protein", "MKV")


@pytest.mark.parametrize(
    ("kind", "token", "text"),
    [
        ("bert_uncased", AddedToken("foo", single_word=True), "foox"),
        ("bert_cased", AddedToken("foo", single_word=True, normalized=False), "foox"),
        ("bert_uncased", AddedToken("brca", special=True, normalized=False), "BRCA"),
        ("llama3", AddedToken("brca", single_word=True, normalized=False), "brca_"),
    ],
)
def test_a_token_that_other_text_would_become_is_refused(
    base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start, kind: str, token: AddedToken, text: str
) -> None:
    base, own = with_tokens(base_tokenizer(kind), token), "bpe" if kind == "llama3" else "wordpiece"
    match = rf"added token '{token.content}' has to become a part of its model, .* '{text}' is no longer read as .*normalized: true"
    with pytest.raises(ConfigError, match=match):
        start_merge(base).add(domain_tokenizer("dna", own))
    if kind != "llama3":
        with pytest.raises(ConfigError, match=match):
            continue_tokenizer(json.loads(base.to_str()), ["hyperkeratosis"] * 9, 3)


def test_a_token_with_an_unknown_letter_is_refused_in_a_unigram_base(domain_tokenizer: Domains, start_merge: Start) -> None:
    """Any piece beats an unknown letter, however little it scores."""
    base = small_unigram(("a", -3.0))
    base.add_special_tokens(["<a>"])
    with pytest.raises(ConfigError, match=r"added token '<a>' has to become a part of its model, .* '＜ａ＞' is no longer read as"):
        start_merge(base).add(domain_tokenizer("dna", "unigram"))


def test_an_unknown_letter_costs_what_it_did_where_pieces_hold_one(domain_tokenizer: Domains, start_merge: Start) -> None:
    """As in the smallest case of unknown letters, but with an added token, which then may not score less than all others."""
    base = small_unigram(("wxyz", -0.5), *((piece, -4.25) for piece in ("vw", "x", "y", "z")))
    base.normalizer = None
    base.add_special_tokens(["xyz"])
    merged = start_merge(base).add(domain_tokenizer("dna", "unigram"))
    assert_unchanged(merged, ["vwxyz", "vw", "v", "xy", "xyz"])


def test_ordinary_added_tokens_are_welcome_in_every_kind(base_tokenizer: Bases, domain_tokenizer: Domains, start_merge: Start) -> None:
    for kind, own in (("bert_uncased", "wordpiece"), ("llama3", "bpe"), ("t5", "unigram")):
        base = with_tokens(base_tokenizer(kind), "brca", AddedToken("[NEW]", special=True, normalized=False))
        merged = start_merge(base).add(domain_tokenizer("dna", own))
        assert_unchanged(merged, ["the brca gene", "xbrcab", "BRCA [NEW] a[NEW]brca", "[new]"])


# --- scores -------------------------------------------------------------------------------------------------------------------


def test_a_unigram_base_with_positive_scores_is_refused(domain_tokenizer: Domains, start_merge: Start) -> None:
    base = small_unigram(("a", 30.0), ("G", 12.0))
    with pytest.raises(
        ConfigError, match=r"piece 'a' has the score 30\.0; .* at most 0, .* no sequence would be recognised: choose a base"
    ):
        start_merge(base).add(domain_tokenizer("dna", "unigram"))
