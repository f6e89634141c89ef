"""The strategy `continue`: words of a domain in the base's own alphabet, learnt on from where the base's training stopped.

    text            "hyperchylomicronemia"
    base tokens     hyper|chy|lom|icron|emia      words are cut by the base: its normaliser, pre-tokenizer and model
    private         one private character per base token; the BPE trainer of `tokenizers` learns merges over those
    BPE             the merges, spelt in base tokens, ranked behind all base merges
    WordPiece       the merged pieces, added to the vocabulary under its greedy longest match
    Unigram         the merged pieces, each scored just above the base tokens that it replaces

For BPE the base's result is never undone. Merges are applied in the order of their rank, so all base merges come first and see
exactly the base's state; a new merge then only joins neighbours, and the string that it makes is no token of the base, so that no
base merge can start from it. Hence the guarantee that `continuation_proof` checks: each new token, replaced by the base tokens that
it was learnt from, gives the ids of the base, for any text. Further, a stretch of tokens of a BPE encoding is what BPE makes of
that stretch alone, so that equal strings are equal base tokens, and every merge that was applied once is reachable.

Everything here is pure: JSON in, JSON out. The same base and the same texts give the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from biollm.core.errors import ConfigError, DataError
from biollm.merge.private_words import FIRST_PRIVATE, Alphabet, Words, count_words
from biollm.merge.tokenizer_file import (
    Json,
    Kind,
    check_added_tokens,
    fold_added_tokens,
    load,
    lowest_score,
    model_kind,
    next_id,
    size,
    vocabulary_of,
)
from biollm.modeling.vocabulary import longest_matches
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

Pair = tuple[str, str]

_REPEATS = 1000  # words in one string for the trainer, which counts strings in parallel
_SPARE = 0.25  # learnt beyond what is asked for, to fill the places of what is pruned
_JOIN = 1e-7  # what a Unigram piece scores above its base tokens per token saved: more than rounding, less than any real difference


@dataclass(frozen=True)
class Continued:
    """A base tokenizer with new tokens behind its own.

    merged: the content of its tokenizer.json. new: the new tokens as the model spells them, in the order of their ids, which
    start at first_id. pieces: new id -> ids of the base tokens that stand for it in the base. facts: what was learnt, for reports.
    """

    merged: Json
    new: list[str]
    first_id: int
    pieces: dict[int, list[int]]
    facts: dict[str, Any]


def continue_tokenizer(
    base: Json,
    texts: Iterable[str],
    new_tokens: int,
    min_count: int = 2,
    *,
    sealed: Collection[int] = (),
    barred: Collection[str] = (),
) -> Continued:
    """The base with up to `new_tokens` more tokens, learnt on `texts`, ids of the base untouched.

    base: content of a tokenizer.json with a BPE, WordPiece or Unigram model. texts: any strings of the domain, read once.
    min_count: a pair that is rarer is not merged. sealed: ids that may not become part of a new token (those of domains that were
    merged before: their sequences must keep their tokens). barred: pieces that may not be made (WordPiece and Unigram).
    The new ids follow the largest of the base. Fewer tokens than asked for
    come back if the texts hold no more pairs; `facts["new_tokens"]` says how many.

    Guaranteed: new tokens are in the model's vocabulary and no token of the base; each is reachable; each is used in `texts`, or
    (BPE only, counted in facts as `unused_kept_as_parts`) needed to build one that is. No new token holds white space but for the
    word mark at its start, a special token, an unknown or a byte token, or spans two words.
    Raises ConfigError for a base that cannot be continued, DataError if the texts hold nothing to learn.
    """
    if new_tokens < 1 or min_count < 1:
        raise ConfigError(f"merge: new_tokens is {new_tokens} and min_count {min_count}; both must be 1 or more")
    kind = check_continuable(base)
    prepared = fold_added_tokens(base)
    check_added_tokens(base, prepared)
    first_id = size(base)
    tokenizer = load(prepared)
    alphabet = Alphabet.of(prepared, tokenizer, sealed)
    counted = count_words(tokenizer, texts, alphabet)
    if kind == "BPE":
        new, merges, facts = _choose_merges(counted, alphabet, new_tokens, min_count)
        merged = _append_merges(prepared, new, merges, first_id)
    else:
        new, facts = _choose_pieces(kind, prepared, counted, alphabet, new_tokens, min_count, frozenset(barred))
        merged = _append_pieces(kind, prepared, new, first_id)
    pieces = pieces_of_new_tokens(base, merged)
    if kind == "BPE":
        _assert_reachable(merged, new)
    facts = {"kind": kind, "requested_tokens": new_tokens, "new_tokens": len(new), "min_count": min_count, **counted.facts(), **facts}
    return Continued(merged, new, first_id, pieces, facts)


def expand_ids(ids: Iterable[int], pieces: Mapping[int, Sequence[int]]) -> list[int]:
    """The ids with each new token replaced by the base tokens that it stands for.

    >>> expand_ids([7, 100, 8], {100: [1, 2]})
    [7, 1, 2, 8]
    """
    return [base_id for i in ids for base_id in pieces.get(i, (i,))]


def check_continuable(base: Json) -> Kind:
    """The kind of the base's model. Raises ConfigError for a base whose training cannot be continued, saying why."""
    kind = model_kind(base["model"])
    next_id(base)
    if base.get("decoder") is None:
        raise ConfigError("the base tokenizer has no decoder: it parts its tokens by spaces, so longer tokens would decode otherwise")
    model = base["model"]
    if kind == "BPE":
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise ConfigError(
                "the base is a BPE with a prefix or suffix for parts of words; only byte-level and SentencePiece ones are known"
            )
        if model.get("dropout"):
            raise ConfigError(f"the base is a BPE with dropout {model['dropout']}: it encodes by chance; set model.dropout to null")
    return kind


def pieces_of_new_tokens(base: Json, merged: Json, among: Collection[int] | None = None) -> dict[int, list[int]]:
    """New id -> ids of the base tokens that the base makes of the same string at that place (start or inside of a word).

    among: only these ids; None: all that the base has not.
    """
    kind, first_id = model_kind(base["model"]), size(base)
    vocabulary = vocabulary_of(fold_added_tokens(base))
    new = {token: i for token, i in vocabulary_of(merged).items() if i >= first_id and (among is None or i in among)}
    if kind == "WordPiece":
        prefix = base["model"]["continuing_subword_prefix"]
        return {i: [vocabulary[piece] for piece in longest_matches(token, vocabulary, prefix)] for token, i in new.items()}
    model = load(base).model
    return {i: [token.id for token in model.tokenize(text)] for text, i in new.items()}


def _assert_reachable(merged: Json, new: list[str]) -> None:
    """Each new token is what the model's merges make of its letters (a base with ignore_merges would look it up)."""
    model = load(merged | {"model": merged["model"] | {"ignore_merges": False}}).model
    unreachable = [token for token in new if [made.value for made in model.tokenize(token)] != [token]]
    assert not unreachable, f"merges that never apply: {unreachable[:3]}"


def _learn_more_and_more(runs: Mapping[str, int], number: int, min_count: int) -> Iterator[list[Pair]]:
    """Merges enough for `number` tokens and some that will be pruned; then twice as many, until the runs hold no more."""
    asked = int(number * (1 + _SPARE)) + 1
    while True:
        learnt = _learn(runs, asked, min_count) if runs else []
        yield learnt
        if len({left + right for left, right in learnt}) < asked:
            return
        asked *= 2


def _learn(runs: Mapping[str, int], number: int, min_count: int) -> list[Pair]:
    """Up to `number` merges (with new results) over private strings, in the order of their rank."""
    letters = set(chain.from_iterable(runs))
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=len(letters) + number, min_frequency=min_count, show_progress=False)
    learner.train_from_iterator(_repeated(runs), trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


def _repeated(runs: Mapping[str, int]) -> Iterator[str]:
    """The trainer takes no counts: each run as often as it occurs, in strings of bounded length."""
    waiting: list[str] = []
    for run, count in runs.items():
        while count:
            waiting += [run] * (added := min(count, _REPEATS - len(waiting)))
            count -= added
            if len(waiting) == _REPEATS:
                yield " ".join(waiting)
                waiting = []
    yield " ".join(waiting)


# BPE: which merges.


def _choose_merges(words: Words, alphabet: Alphabet, number: int, min_count: int) -> tuple[list[str], list[Pair], dict[str, Any]]:
    """The new tokens and the merges that make them, both as the model spells them.

    Some 2 % are steps to longer tokens and unused otherwise. Shedding steps that other tokens can stand in for was tried on three
    bases: one of 14,000 tokens could be shed.
    """
    runs = words.runs(alphabet)
    for learnt in _learn_more_and_more(runs, number, min_count):
        taken = {left + right for left, right in learnt if alphabet.spell(left + right) in alphabet.taken}
        usable = _without(learnt, taken)
        merges, applied = _prune(usable, number, runs)
        if len(applied.tokens) == number:
            break
    if not applied.merges:
        raise _nothing_to_learn(min_count)
    unused = sum(not applied.uses[token] for token in applied.tokens)
    facts = {
        "tokens_after": words.tokens - applied.saved(runs), "unused_kept_as_parts": unused, "unused_tokens": 0, "unreachable_tokens": 0,
        "pruned_tokens": len(usable) - len(merges), "already_in_base": len(taken), "new_merges": len(applied.merges),
    }  # fmt: skip
    spelled = [(alphabet.spell(left), alphabet.spell(right)) for left, right in applied.merges]
    return [alphabet.spell(token) for token in applied.tokens], spelled, facts


@dataclass(frozen=True)
class _Applied:
    """Merges over private strings, and what they make of the runs."""

    merges: list[Pair]
    tokens: list[str]  # what the merges make, in the order of the first merge that makes it
    lengths: dict[str, int]  # tokens per run
    uses: Counter[str]  # of each token in all runs, weighted by their counts
    unreachable: set[str]

    @classmethod
    def to(cls, runs: Mapping[str, int], merges: list[Pair]) -> _Applied:
        tokens = list(dict.fromkeys(left + right for left, right in merges))
        letters = sorted(set(chain.from_iterable(runs)))
        model = models.BPE({token: i for i, token in enumerate([*letters, *tokens])}, merges)
        encoded = Tokenizer(model).encode_batch([*runs, *tokens], add_special_tokens=False)
        lengths, uses = {}, Counter[str]()
        for (run, count), made in zip(runs.items(), encoded, strict=False):
            lengths[run] = len(made.ids)
            for token in made.tokens:
                uses[token] += count
        alone = zip(tokens, encoded[len(runs) :], strict=True)
        return cls(merges, tokens, lengths, uses, {token for token, made in alone if len(made.ids) > 1})

    def saved(self, runs: Mapping[str, int]) -> int:
        return sum(count * (len(run) - self.lengths[run]) for run, count in runs.items())


def _prune(merges: list[Pair], number: int, runs: Mapping[str, int]) -> tuple[list[Pair], _Applied]:
    """The merges without those whose result is unreachable, or unused and part of no other, and the first `number` tokens of them."""
    while True:
        applied = _Applied.to(runs, _first(merges, number))
        parts = set(chain.from_iterable(applied.merges))
        dead = applied.unreachable | {token for token in applied.tokens if not applied.uses[token] and token not in parts}
        if not dead:
            return merges, applied
        merges = _without(merges, dead)


def _first(merges: list[Pair], number: int) -> list[Pair]:
    """As many merges as make `number` tokens."""
    made: set[str] = set()
    chosen = []
    for left, right in merges:
        if len(made) == number and left + right not in made:
            break
        made.add(left + right)
        chosen.append((left, right))
    return chosen


def _without(merges: list[Pair], removed: set[str]) -> list[Pair]:
    """The merges that make none of `removed`.

    A token whose parts are gone is built from any two others as soon as there are such; if there never are, it goes too.

    >>> _without([("a", "b"), ("ab", "c"), ("b", "c")], {"ab"})
    [('b', 'c'), ('a', 'bc')]
    """
    made: set[str] = set()
    kept: dict[Pair, None] = {}
    waiting: dict[str, None] = {}

    def ready(*parts: str) -> bool:
        return all(len(part) == 1 or part in made for part in parts)

    for left, right in merges:
        token = left + right
        if token in removed:
            continue
        splits = [(left, right)] if ready(left, right) else [(token[:i], token[i:]) for i in range(1, len(token))]
        arrived = [split for split in splits if ready(*split)]
        if not arrived and token not in made:
            waiting[token] = None
        while arrived:
            pair = arrived.pop()
            kept[pair] = None
            token = "".join(pair)
            if token in made:
                continue
            made.add(token)
            waiting.pop(token, None)
            for longer in waiting:
                ends = {len(token)} if longer.startswith(token) else set()
                ends |= {len(longer) - len(token)} if longer.endswith(token) else set()
                arrived += [(longer[:i], longer[i:]) for i in sorted(ends) if ready(longer[:i], longer[i:])]
    return list(kept)


def _append_merges(prepared: Json, new: list[str], merges: list[Pair], first_id: int) -> Json:
    """The base with tokens and merges behind its own, in the spelling of merges that its file has ("a b" before tokenizers 0.20)."""
    model = prepared["model"]
    in_one_string = bool(model["merges"]) and isinstance(model["merges"][0], str)
    appended = [f"{left} {right}" if in_one_string else [left, right] for left, right in merges]
    vocabulary = model["vocab"] | {token: first_id + position for position, token in enumerate(new)}
    return prepared | {"model": model | {"vocab": vocabulary, "merges": [*model["merges"], *appended]}}


# WordPiece and Unigram: which pieces. They need no steps, so the candidates are all that merges make, and the least used go.


def _choose_pieces(
    kind: Kind, prepared: Json, words: Words, alphabet: Alphabet, number: int, min_count: int, barred: frozenset[str]
) -> tuple[list[str], dict[str, Any]]:
    runs = words.runs(alphabet)
    prefix = prepared["model"].get("continuing_subword_prefix") or ""

    def spell(ids: Iterable[int]) -> str:
        first, *rest = (alphabet.strings[i] for i in ids)
        return first + "".join(piece.removeprefix(prefix) for piece in rest)

    texts: Counter[str] = Counter()
    for word, count in words.words.items():
        for readable, part in groupby(word, lambda i: not alphabet.unreadable[i]):
            if readable:
                texts[spell(part)] += count
    for learnt in _learn_more_and_more(runs, number, min_count):
        made = dict.fromkeys(left + right for left, right in learnt)
        spelled = dict.fromkeys(spell(ord(letter) - FIRST_PRIVATE for letter in token) for token in made)
        candidates = [token for token in spelled if token not in alphabet.taken and token not in barred]
        chosen, saved = _most_used(kind, prepared, candidates, texts, number, min_count)
        if len(chosen) == number:
            break
    if not chosen:
        raise _nothing_to_learn(min_count)
    facts = {
        "tokens_after": words.tokens - saved, "unused_kept_as_parts": 0, "unused_tokens": 0, "unreachable_tokens": 0,
        "pruned_tokens": len(candidates) - len(chosen), "already_in_base": sum(token in alphabet.taken for token in spelled),
    }  # fmt: skip
    return chosen, facts


def _most_used(
    kind: Kind, prepared: Json, candidates: list[str], texts: Mapping[str, int], number: int, min_count: int
) -> tuple[list[str], int]:
    """Up to `number` of the candidates, and the tokens that they save.

    A piece stays if words that expand to the base's tokens use it `min_count` times, and no fewer than other words do: pieces that
    mostly cut words anew are worth little (this leaves a third of the lines that do not expand, for 0.15 % more tokens).
    """
    first_id = size(prepared)
    model = load(prepared).model
    counted = [(text, count, [token.id for token in model.tokenize(text)]) for text, count in texts.items()]
    chosen = candidates
    while True:
        uses, clashes, saved = _piece_uses(prepared, _append_pieces(kind, prepared, chosen, first_id), counted)
        used = [token for token in chosen if uses[token] >= max(min_count, clashes[token])]
        if len(used) == len(chosen) <= number:
            return chosen, saved
        # Each piece that goes hands its words to others, so the least used go in steps, the last few one by one.
        surplus = len(used) - number
        least = sorted(used, key=lambda token: uses[token] - clashes[token])[: (surplus + 1) // 2] if surplus > 0 else []
        chosen = [token for token in used if token not in set(least)]


def _piece_uses(prepared: Json, merged: Json, words: list[tuple[str, int, list[int]]]) -> tuple[Counter[str], Counter[str], int]:
    """How often each piece is used in words that expand to the base's tokens, how often in others, and the tokens saved in all.

    words: text, count, base ids.
    """
    model = load(merged).model
    pieces = pieces_of_new_tokens(prepared, merged)
    uses: Counter[str] = Counter()
    clashes: Counter[str] = Counter()
    saved = 0
    for text, count, old in words:
        new = model.tokenize(text)
        saved += count * (len(old) - len(new))
        as_base = expand_ids((token.id for token in new), pieces) == old
        for token in new:
            (uses if as_base else clashes)[token.value] += count
    return uses, clashes, saved


def _append_pieces(kind: Kind, prepared: Json, new: list[str], first_id: int) -> Json:
    """The base with pieces behind its own.

    Unigram scores: a piece scores what its base tokens score together, and a hair more per token that it saves, so that the applied
    segmentation stays the base's with some of its tokens joined, and the longest pieces win. No score goes below the base's lowest:
    that sets what an unknown letter costs. A piece raised to it can win over base tokens that cross its ends.
    """
    model = prepared["model"]
    if kind == "WordPiece":
        vocabulary = model["vocab"] | {token: first_id + position for position, token in enumerate(new)}
        return prepared | {"model": model | {"vocab": vocabulary}}
    base_model = load(prepared).model
    scores = [score for _, score in model["vocab"]]
    lowest = lowest_score(prepared)
    pieces = []
    for token in new:
        parts = base_model.tokenize(token)
        pieces.append([token, max(lowest, sum(scores[part.id] for part in parts) + _JOIN * (len(parts) - 1))])
    return prepared | {"model": model | {"vocab": [*model["vocab"], *pieces]}}


def _nothing_to_learn(min_count: int) -> DataError:
    return DataError(
        f"merge: the texts hold no two neighbouring base tokens of one word that occur {min_count} times; give more text, "
        "or a smaller min_count"
    )
