"""The strategy `continue`: what is learnt, what is refused, and that the proof sees a broken promise. Bases are trained here, small."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from biollm.core.errors import ConfigError, DataError
from biollm.merge.continuation import (
    Continued,
    _prune,
    check_continuable,
    continue_tokenizer,
    expand_ids,
    pieces_of_new_tokens,
)
from biollm.merge.continuation_proof import continue_unchanged, prove_continuation
from biollm.merge.tokenizer_file import fold_added_tokens
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

Json = dict[str, Any]

ENGLISH = [
    f"{who} {does} the {what}, and {number} {others} in it."
    for who in ("The doctor", "A nurse", "Someone", "The old teacher")
    for does in ("saw", "opened", "tested", "described", "emitted")
    for what in ("hyper child", "tension line", "uric window", "general problem", "chylo form")
    for number, others in ((3, "letters"), (12, "patients"), (2024, "colours"))
]
TERMS = [f"{a}{b}{c}" for a in ("hyper", "hypo") for b in ("lipid", "uric", "calc", "chylomicron") for c in ("emia", "uria", "osis")]
DOMAIN = [f"Severe {term} with IL-6 and {other}; 1990 cases\n of {term}" for term in TERMS for other in reversed(TERMS)]


def load(content: Json) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(content))


def _json(tokenizer: Tokenizer) -> Json:
    content: Json = json.loads(tokenizer.to_str())
    return content


def gpt2_like() -> Json:
    """Byte-level BPE with an added token outside the model's vocabulary, as GPT-NeoX has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(ENGLISH, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(["<|end|>"])
    return _json(tokenizer)


def llama3_like() -> Json:
    """Looks whole words up before merging (ignore_merges), and knows a word that its merges do not reach."""
    content = gpt2_like()
    content["added_tokens"] = []
    content["model"]["ignore_merges"] = True
    content["model"]["vocab"]["Ġhyperlipid"] = len(content["model"]["vocab"])
    return content


def llama2_like() -> Json:
    """SentencePiece-style BPE: no pre-tokenizer, spaces are U+2581, unknown letters are bytes, digits stand alone."""
    learner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    learner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Split(Regex("[0-9]"), "isolated")]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learner.train_from_iterator(ENGLISH, trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False))
    content = _json(learner)
    content["pre_tokenizer"] = None
    content["added_tokens"] = content["added_tokens"][:3]
    content["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }  # fmt: skip
    return content


def bert_like() -> Json:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    fixed = [*letters, *(f"##{letter}" for letter in letters), *".,;-\n"]
    words = ["the", "hyper", "##emi", "##ted", "test", "##lip", "##id", "hyp", "##uri", "chy", "with", "cases", "and", "of", "##os"]
    tokenizer.model = models.WordPiece({token: i for i, token in enumerate([*special, *fixed, *words])}, unk_token="[UNK]")
    tokenizer.add_special_tokens(special)
    return _json(tokenizer)


def t5_like() -> Json:
    """Unigram over the tokens of a BPE, more frequent ones with higher scores, and a sentinel behind the model's vocabulary."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789"))
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, show_progress=False)
    learner.train_from_iterator(ENGLISH, trainer)
    learnt = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(token, -9.0 - i / 1000) if len(token) == 1 else (token, -4.0 - i / 100) for token, i in learnt]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>", "<extra_id_0>"])
    return _json(tokenizer)


BASES: dict[str, Callable[[], Json]] = {
    "gpt2": gpt2_like, "llama3": llama3_like, "llama2": llama2_like, "bert": bert_like, "t5": t5_like,
}  # fmt: skip
BPE = ["gpt2", "llama3", "llama2"]


@pytest.fixture(scope="module", params=BASES)
def pair(request: pytest.FixtureRequest) -> tuple[str, Json, Continued]:
    base = BASES[request.param]()
    return request.param, base, continue_tokenizer(base, DOMAIN, 20)


def test_base_ids_survive_and_new_ids_follow_them(pair: tuple[str, Json, Continued]) -> None:
    _, base, continued = pair
    before, after = load(base), load(continued.merged)
    assert continued.first_id == len(before.get_vocab())
    assert {token: after.token_to_id(token) for token in before.get_vocab()} == before.get_vocab()
    assert [after.id_to_token(continued.first_id + i) for i in range(len(continued.new))] == continued.new
    assert after.get_vocab_size() == continued.first_id + len(continued.new)
    assert continued.merged["added_tokens"] == base["added_tokens"]


def test_a_continued_tokenizer_saves_and_loads_to_the_same_bytes(pair: tuple[str, Json, Continued]) -> None:
    saved = load(pair[2].merged).to_str()
    assert Tokenizer.from_str(saved).to_str() == saved


def test_as_many_tokens_come_as_the_texts_allow(pair: tuple[str, Json, Continued]) -> None:
    _, base, continued = pair
    assert len(continued.new) == continued.facts["new_tokens"] == 20
    many = continue_tokenizer(base, DOMAIN, 5000)
    assert 20 < len(many.new) < 5000
    assert many.facts["tokens_after"] < continued.facts["tokens_after"] < continued.facts["tokens_before"]


def test_the_facts_count_what_the_tokenizer_does(pair: tuple[str, Json, Continued]) -> None:
    _, base, continued = pair
    before, after = load(base), load(continued.merged)
    assert continued.facts["tokens_before"] == sum(len(e.ids) for e in before.encode_batch(DOMAIN, add_special_tokens=False))
    assert continued.facts["tokens_after"] == sum(len(e.ids) for e in after.encode_batch(DOMAIN, add_special_tokens=False))


def test_every_new_token_is_used_or_part_of_one(pair: tuple[str, Json, Continued]) -> None:
    name, _, continued = pair
    used = {token for e in load(continued.merged).encode_batch(DOMAIN) for token in e.tokens}
    unused = set(continued.new) - used
    parts = {part for merge in continued.merged["model"].get("merges", []) for part in merge if "".join(merge) in continued.new}
    assert unused <= parts
    assert len(unused) == continued.facts["unused_kept_as_parts"]
    assert name in BPE or not unused


@pytest.mark.parametrize("pair", BPE, indirect=True)
def test_every_new_token_is_what_its_own_letters_become(pair: tuple[str, Json, Continued]) -> None:
    _, _, continued = pair
    model = load(continued.merged).model
    assert [[made.value for made in model.tokenize(token)] for token in continued.new] == [[token] for token in continued.new]


def test_no_new_token_spans_words_or_holds_a_special_or_byte_token(pair: tuple[str, Json, Continued]) -> None:
    name, base, continued = pair
    base_names = {i: token for token, i in load(base).get_vocab().items()}
    special = {token["id"] for token in base["added_tokens"]}
    for i, token in enumerate(continued.new, continued.first_id):
        inner = token[1:]
        assert not any(letter in inner for letter in "Ġ▁Ċ \n")
        assert not special.intersection(continued.pieces[i])
        assert not any(base_names[piece].startswith("<0x") for piece in continued.pieces[i])
        assert len(continued.pieces[i]) > 1
    if name == "llama2":  # the base reads numbers digit by digit and does not part signs from letters
        assert not any(letter.isdecimal() for token in continued.new for letter in token)
        assert not any(token.strip("▁").isalpha() is False for token in continued.new if any(map(str.isalpha, token)))


def test_ordinary_text_keeps_its_tokens(pair: tuple[str, Json, Continued]) -> None:
    name, base, continued = pair
    facts = prove_continuation(base, continued.merged, ENGLISH + DOMAIN)
    assert facts["lines"] == len(ENGLISH) + len(DOMAIN)
    assert len(DOMAIN) <= facts["lines_changed"] <= facts["lines"]
    assert facts["tokens_after"] < facts["tokens_before"]
    assert facts["round_trip_failures"] == 0
    if name in BPE:
        assert facts["violations"] == 0
    assert len(facts["violation_examples"]) == min(facts["violations"], 5)


@pytest.mark.parametrize("name", BPE)
def test_new_tokens_expand_to_the_tokens_of_the_base(name: str) -> None:
    base = BASES[name]()
    continued = continue_tokenizer(base, DOMAIN, 40)
    before, after = load(base), load(continued.merged)
    assert continued.pieces == pieces_of_new_tokens(base, continued.merged)
    for line in DOMAIN:
        assert expand_ids(after.encode(line).ids, continued.pieces) == before.encode(line).ids


def test_a_string_that_the_base_already_has_is_not_made_a_second_time() -> None:
    """The base holds 'Ġhyperlipid', but no merge reaches it: in 'hyperlipidemia' it stays in its pieces, and so does what it is part of."""
    base = llama3_like()
    continued = continue_tokenizer(base, [" hyperlipidemia hyperlipiduria"] * 50, 20)
    assert "Ġhyperlipid" not in continued.new
    assert continued.facts["already_in_base"] >= 1
    assert {"Ġhyperlip", "emia"} < set(continued.new)
    assert not any("lipide" in token for token in continued.new)
    assert prove_continuation(base, continued.merged, [" hyperlipidemia", " hyperlipid", " hyperlipids"])["violations"] == 0


def test_a_special_token_behind_the_models_vocabulary_keeps_its_id_and_its_place() -> None:
    base = gpt2_like()
    continued = continue_tokenizer(base, [f"{line}<|end|>" for line in DOMAIN], 30)
    end = load(base).token_to_id("<|end|>")
    assert end == continued.first_id - 1
    assert "<|end|>" not in base["model"]["vocab"]
    for _ in range(2):
        merged = load(_json(load(continued.merged)))
        assert merged.encode("a<|end|>").ids[-1] == end
        assert merged.decode(merged.encode("a<|end|>").ids) == "a"


def test_merges_are_appended_in_the_spelling_of_the_file() -> None:
    base = gpt2_like()
    old = copy.deepcopy(base)
    old["model"]["merges"] = [" ".join(merge) for merge in base["model"]["merges"]]
    merged = continue_tokenizer(old, DOMAIN, 30).merged
    assert all(isinstance(merge, str) for merge in merged["model"]["merges"])
    assert load(merged).to_str() == load(continue_tokenizer(base, DOMAIN, 30).merged).to_str()


def test_a_base_is_never_changed_and_loses_truncation_and_padding_only() -> None:
    base = bert_like()
    base["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    before = copy.deepcopy(base)
    continued = continue_tokenizer(base, DOMAIN, 30)
    assert base == before
    assert continued.merged["truncation"] is None
    assert continued.facts["tokens_before"] == continue_tokenizer(bert_like(), DOMAIN, 30).facts["tokens_before"]


def test_unigram_scores_join_and_do_not_move_the_price_of_unknown_letters() -> None:
    base = t5_like()
    continued = continue_tokenizer(base, DOMAIN, 30)
    scores = [score for _, score in base["model"]["vocab"]]
    lowest = min(scores)
    for i, (token, score) in enumerate(continued.merged["model"]["vocab"][continued.first_id :], continued.first_id):
        assert token == continued.new[i - continued.first_id]
        joined = sum(scores[piece] for piece in continued.pieces[i])
        assert score >= lowest
        assert joined < score == pytest.approx(max(lowest, joined), abs=1e-5)


def test_the_longest_unigram_piece_wins_over_shorter_ones() -> None:
    pieces = [("<unk>", 0.0), ("z", -100.0), *((letter, -1.0) for letter in "▁abcd")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    continued = continue_tokenizer(_json(tokenizer), ["ab"] * 9 + ["abc"] * 6 + ["abcd"] * 4, 3)
    merged = load(continued.merged)
    assert [merged.encode(word).tokens for word in ("ab", "abc", "abcd")] == [["▁ab"], ["▁abc"], ["▁abcd"]]
    assert merged.encode("cab").tokens == ["▁", "c", "a", "b"]
    scores = [score for _, score in continued.merged["model"]["vocab"]]
    for i, parts in continued.pieces.items():  # a hair above, so that the choice is not left to the order of equal ways
        assert 0 < scores[i] - sum(scores[part] for part in parts) < 1e-5


def test_a_base_that_parts_no_signs_gets_no_token_of_letters_and_signs() -> None:
    base = llama2_like()
    continued = continue_tokenizer(base, ["the hyperuria, and hypocalcemia. The hyperuria, 3 hypocalcemia."] * 5, 50)
    assert any("calcemia" in token for token in continued.new)
    assert not any(sign in token for token in continued.new for sign in ",.")


@pytest.mark.parametrize("name", BASES)
def test_words_that_always_stand_together_stay_two(name: str) -> None:
    continued = continue_tokenizer(BASES[name](), ["hyperuria hypocalcemia hyperuria"] * 20, 500)
    assert any("uria" in token for token in continued.new)
    assert not any(mark in token[1:] for token in continued.new for mark in "Ġ▁ ")


def test_an_unused_leaf_is_pruned_and_an_unused_step_stays() -> None:
    merges = [("a", "b"), ("b", "c"), ("ab", "d")]
    kept, applied = _prune(merges, 5, {"abc": 1, "abd": 2})
    assert kept == [("a", "b"), ("ab", "d")]
    kept, applied = _prune(kept, 5, {"abd": 2})
    assert applied.uses == {"abd": 2}
    assert applied.tokens == ["ab", "abd"]


def test_the_more_frequent_of_two_words_is_learnt() -> None:
    continued = continue_tokenizer(gpt2_like(), ["xqxq"] * 9 + ["zkzk"] * 2, 1)
    assert continued.new == ["xq"]


def test_rare_pairs_are_left_alone() -> None:
    texts = ["xqy"] * 5 + ["zk"] * 4
    learnt = continue_tokenizer(gpt2_like(), texts, 10, min_count=5).new
    assert "zk" not in learnt
    assert "xqy" in learnt


_PRINT_DIGESTS = """
import hashlib, importlib.util, json, sys
spec = importlib.util.spec_from_file_location("made", sys.argv[1])
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)
for name in made.BASES:
    merged = made.continue_tokenizer(made.BASES[name](), made.DOMAIN, 60).merged
    print(name, hashlib.sha256(json.dumps(merged).encode()).hexdigest())
"""


def test_another_process_and_another_number_of_threads_learn_the_same_bytes() -> None:
    def digests(threads: str) -> str:
        environment = {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true", "PATH": "/usr/bin"}
        command = [sys.executable, "-c", _PRINT_DIGESTS, str(Path(__file__))]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    first = digests("1")
    assert len(first.splitlines()) == len(BASES)
    assert digests("4") == first


def test_sealed_tokens_take_no_part() -> None:
    base = gpt2_like()
    sealed = {i for token, i in base["model"]["vocab"].items() if "h" in token}
    open_to_all, closed = continue_tokenizer(base, DOMAIN, 30), continue_tokenizer(base, DOMAIN, 30, sealed=sealed)
    assert any("h" in token for token in open_to_all.new)
    assert not any("h" in token for token in closed.new)
    assert len(closed.new) == 30


# What is refused.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "WordLevel"}, "the base tokenizer's model is WordLevel; 'continue' knows BPE, WordPiece and Unigram"),
        ({"end_of_word_suffix": "</w>"}, "a BPE with a prefix or suffix for parts of words"),
        ({"dropout": 0.1}, r"BPE with dropout 0\.1: it encodes by chance"),
    ],
)
def test_a_model_that_cannot_be_continued_is_refused(change: Json, message: str) -> None:
    base = gpt2_like()
    base["model"] |= change
    with pytest.raises(ConfigError, match=message):
        continue_tokenizer(base, DOMAIN, 5)


def test_a_base_with_a_gap_in_its_ids_is_refused() -> None:
    base = gpt2_like()
    base["added_tokens"][0]["id"] += 7
    with pytest.raises(ConfigError, match=r"ids are not 0 to 380: 381 tokens, largest id 387; repair it first"):
        continue_tokenizer(base, DOMAIN, 5)


def test_a_base_without_a_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no decoder"):
        continue_tokenizer(gpt2_like() | {"decoder": None}, DOMAIN, 5)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("texts", [[], ["", " \n "], ["a b c"]])
def test_texts_with_nothing_to_learn_are_refused(name: str, texts: list[str]) -> None:
    with pytest.raises(DataError, match="hold no two neighbouring base tokens of one word that occur 2 times; give more text"):
        continue_tokenizer(BASES[name](), texts, 5)


@pytest.mark.parametrize(("number", "count"), [(0, 2), (5, 0)])
def test_sizes_that_cannot_be_are_refused(number: int, count: int) -> None:
    with pytest.raises(ConfigError, match=f"new_tokens is {number} and min_count {count}; both must be 1 or more"):
        continue_tokenizer(gpt2_like(), DOMAIN, number, min_count=count)


def test_a_model_without_a_name_is_known_by_its_parts() -> None:
    base = gpt2_like()
    del base["model"]["type"]
    assert check_continuable(base) == "BPE"


# The proof sees what is broken.


def test_the_proof_sees_a_merge_that_undoes_the_base() -> None:
    """Merges ranked before those of the base, as an appended vocabulary would have them, change text that has no new word."""
    base = gpt2_like()
    merged = continue_tokenizer(base, DOMAIN, 30).merged
    pair = next([a, b] for a, b in pairwise("".join(ENGLISH).replace(" ", "")) if a + b not in merged["model"]["vocab"])
    merged["model"]["merges"] = [pair, *merged["model"]["merges"]]
    merged["model"]["vocab"]["".join(pair)] = len(fold_added_tokens(base)["model"]["vocab"]) + 30
    with pytest.raises(DataError, match=r"\d+ of 300 lines do not expand to the base's tokens"):
        prove_continuation(base, merged, ENGLISH)


def test_the_proof_sees_a_moved_id() -> None:
    base = gpt2_like()
    merged = continue_tokenizer(base, DOMAIN, 30).merged
    vocabulary = merged["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    with pytest.raises(DataError, match=r"2 base tokens changed their id, for example \['[ab]', '[ab]'\]"):
        prove_continuation(base, merged, ENGLISH)


def test_the_proof_sees_text_that_decodes_otherwise() -> None:
    base = gpt2_like()
    merged = continue_tokenizer(base, DOMAIN, 30).merged
    merged["decoder"] = {"type": "Fuse"}
    with pytest.raises(DataError, match=r"lines decode otherwise than with the base"):
        prove_continuation(base, merged, DOMAIN)


def test_the_proof_counts_and_shows_what_greedy_matching_changes() -> None:
    base = bert_like()
    merged = copy.deepcopy(base)
    merged["model"]["vocab"]["hypert"] = len(base["model"]["vocab"])
    facts = prove_continuation(base, merged, ["hyper", "hyperted", "hypertension"])
    assert (facts["lines_changed"], facts["violations"]) == (2, 1)
    assert facts["violation_examples"] == [("hyperted", ["##ted"], ["##t", "##e", "##d"])]


def test_pieces_that_cut_plain_lines_anew_are_barred_and_others_learnt() -> None:
    base, lines = bert_like(), [*ENGLISH, "ilip"]  # i|##lip; with the piece "il", il|##i|##p
    plain = prove_continuation(base, continue_tokenizer(base, DOMAIN, 30).merged, lines)
    continued, facts = continue_unchanged(base, DOMAIN, 30, 2, lines)
    assert plain["violations"] > 0, "else this shows nothing"
    assert (facts["violations"], facts["violating_pieces"]) == (0, [])
    assert facts["barred_pieces"] > 0
    assert plain["violating_pieces"] == ["il"]
    assert "il" not in continued.new
    assert len(continued.new) > 10


def test_no_piece_of_wordpiece_holds_a_digit() -> None:
    numbers = [f"the hyperlipid {n} is HP:{n:07}" for n in range(1000, 1400)]
    new = continue_tokenizer(bert_like(), [*DOMAIN, *numbers], 60).new
    assert new
    assert not any(letter.isdecimal() for token in new for letter in token)


def test_an_added_token_of_the_base_is_no_new_token() -> None:
    tokenizer = load(gpt2_like())
    tokenizer.add_tokens([AddedToken("hyperlipid", normalized=False)])
    base = _json(tokenizer)
    continued = continue_tokenizer(base, DOMAIN, 30)
    assert not any("hyperlipid" in token for token in continued.new)
    assert prove_continuation(base, continued.merged, DOMAIN)["violations"] == 0
