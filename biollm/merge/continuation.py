"""The strategy `continue`: words of a domain in the base's own alphabet, learnt on from where the base's training stopped.

    text            "hyperchylomicronemia"
    base tokens     hyper|chy|lom|icron|emia      words are cut by the base: its normaliser, pre-tokenizer and model
    private         one private character per base token; the BPE trainer of `tokenizers` learns merges over those
    BPE             the merges, spelt in base tokens, ranked behind all base merges
    WordPiece       the merged pieces, added to the vocabulary under its greedy longest match
    Unigram         the merged pieces, each scored just above the base tokens that it replaces

For BPE the base's result is never undone. Merges are applied in the order of their rank, so all base merges come first and see
exactly the base's state; a new merge then only joins neighbours, and the string that it makes is no token of the base, so that no
base merge can start from it. Hence the guarantee that `prove_continuation` checks: each new token, replaced by the base tokens that
it was learnt from, gives the ids of the base, for any text. Further, a stretch of tokens of a BPE encoding is what BPE makes of
that stretch alone, so that equal strings are equal base tokens, and every merge that was applied once is reachable.

Everything here is pure: JSON in, JSON out. The same base and the same texts give the same bytes.
"""

from __future__ import annotations

import copy
import json
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from typing import Any, Literal

from biollm.core.errors import ConfigError, DataError
from biollm.modeling.byte_level import BYTE_OF
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

Kind = Literal["BPE", "WordPiece", "Unigram"]
Json = dict[str, Any]
Pair = tuple[str, str]

_FIRST_PRIVATE = 0x10000  # a million code points from here on, none of them white space: base id i is chr(_FIRST_PRIVATE + i)
_BATCH = 1000  # texts encoded at once
_REPEATS = 1000  # words in one string for the trainer, which counts strings in parallel
_MOST_TOKENS = 2**31 - 1  # the trainer of tokenizers counts pairs in 32 bits and overflows in silence
_SPARE = 0.25  # learnt beyond what is asked for, to fill the places of what is pruned
_JOIN = 1e-7  # what a Unigram piece scores above its base tokens per token saved: more than rounding, less than any real difference
_EXAMPLES = 5


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


def continue_tokenizer(base: Json, texts: Iterable[str], new_tokens: int, min_count: int = 2, *, sealed: Collection[int] = ()) -> Continued:
    """The base with up to `new_tokens` more tokens, learnt on `texts`, ids of the base untouched.

    base: content of a tokenizer.json with a BPE, WordPiece or Unigram model. texts: any strings of the domain, read once.
    min_count: a pair that is rarer is not merged. sealed: ids that may not become part of a new token (those of domains that were
    merged before: their sequences must keep their tokens). The new ids follow the largest of the base. Fewer tokens than asked for
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
    first_id = _size(base)
    tokenizer = _load(prepared)
    alphabet = _Alphabet.of(prepared, tokenizer, sealed)
    counted = _count_words(tokenizer, texts, alphabet)
    if kind == "BPE":
        new, merges, facts = _choose_merges(counted, alphabet, new_tokens, min_count)
        merged = _append_merges(prepared, new, merges, first_id)
    else:
        new, facts = _choose_pieces(kind, prepared, counted, alphabet, new_tokens, min_count)
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


def prove_continuation(base: Json, merged: Json, lines: Sequence[str]) -> dict[str, Any]:
    """What the new tokens change in `lines`, counted; anything that must not change raises DataError.

    Must hold: every base token keeps its id; every line decodes as with the base and has no more unknown tokens than there; for
    BPE, every line expands to the base's ids (`expand_ids`). A line is changed if it holds a new token or other ids than the
    base's; a violation is a line that does not expand to the base's ids, which WordPiece and Unigram can have: they are counted
    and some are shown as (line, the base's tokens, what the merged tokens expand to), from the first difference to the last.
    """
    kind, first_id = check_continuable(base), _size(base)
    before, after = _load(base), _load(merged)
    pieces = pieces_of_new_tokens(base, merged)
    moved = [token for token, i in before.get_vocab().items() if after.token_to_id(token) != i]
    _guarantee(not moved, f"{len(moved)} base tokens changed their id, for example {moved[:3]}")
    names = {i: token for token, i in before.get_vocab().items()}
    unknown = _unknown_id(base)
    changed, tokens_before, tokens_after = 0, 0, 0
    violations: list[tuple[str, list[str], list[str]]] = []  # line, and where it differs the base's tokens and those of the merged
    broken: list[str] = []
    for start in range(0, len(lines), _BATCH):
        batch = list(lines[start : start + _BATCH])
        for line, old, new in zip(batch, before.encode_batch(batch), after.encode_batch(batch), strict=True):
            tokens_before, tokens_after = tokens_before + len(old.ids), tokens_after + len(new.ids)
            if old.ids == new.ids and max(new.ids, default=0) < first_id:
                continue
            changed += 1
            if expand_ids(new.ids, pieces) != old.ids:
                violations.append(_difference(line, old.tokens, [names[i] for i in expand_ids(new.ids, pieces)]))
            if before.decode(old.ids) != after.decode(new.ids) or _count(new.ids, unknown) > _count(old.ids, unknown):
                broken.append(line)
    _guarantee(not broken, f"{len(broken)} of {len(lines)} lines decode otherwise than with the base, for example {broken[:1]}")
    _guarantee(
        kind != "BPE" or not violations, f"{len(violations)} of {len(lines)} lines do not expand to the base's tokens: {violations[:1]}"
    )
    return {
        "lines": len(lines), "lines_changed": changed, "violations": len(violations), "violation_examples": violations[:_EXAMPLES],
        "round_trip_failures": len(broken), "tokens_before": tokens_before, "tokens_after": tokens_after,
    }  # fmt: skip


def _difference(line: str, old: list[str], new: list[str]) -> tuple[str, list[str], list[str]]:
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    return line, old[start : len(old) - end], new[start : len(new) - end]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many tokens the two have in common from their start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def check_continuable(base: Json) -> Kind:
    """The kind of the base's model. Raises ConfigError for a base whose training cannot be continued, saying why."""
    kind = _kind(base["model"])
    ids = _ids(base)
    if ids != set(range(len(ids))):
        raise ConfigError(f"the base tokenizer's ids are not 0 to {len(ids) - 1}: {len(ids)} ids, the largest {max(ids)}; repair it first")
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


def fold_added_tokens(base: Json) -> Json:
    """A copy in which the added tokens stand in the model's vocabulary too, under the ids they have; truncation and padding off.

    On loading, tokenizers numbers an added token that the model does not know behind the model's vocabulary, whatever id the file
    gives: tokens appended there would move it (GPT-NeoX, ModernBERT, Llama 3, Qwen keep special tokens so).
    """
    folded = copy.deepcopy(base)
    folded["truncation"] = folded["padding"] = None
    vocabulary = folded["model"]["vocab"]
    outside = sorted((token["id"], token["content"]) for token in base.get("added_tokens", []))
    if isinstance(vocabulary, list):
        lowest = min(score for _, score in vocabulary)
        vocabulary += [[content, lowest] for i, content in outside if i >= len(base["model"]["vocab"])]
    else:
        vocabulary |= {content: i for i, content in outside}
    return folded


def pieces_of_new_tokens(base: Json, merged: Json) -> dict[int, list[int]]:
    """New id -> ids of the base tokens that the base makes of the same string at that place (start or inside of a word)."""
    kind, first_id = _kind(base["model"]), _size(base)
    vocabulary = _vocabulary(fold_added_tokens(base))
    new = {token: i for token, i in _vocabulary(merged).items() if i >= first_id}
    if kind == "WordPiece":
        prefix = base["model"]["continuing_subword_prefix"]
        return {i: [vocabulary[piece] for piece in _longest_matches(token, vocabulary, prefix)] for token, i in new.items()}
    model = _load(base).model
    return {i: [token.id for token in model.tokenize(text)] for text, i in new.items()}


def _assert_reachable(merged: Json, new: list[str]) -> None:
    """Each new token is what the model's merges make of its letters (a base with ignore_merges would look it up)."""
    model = _load(merged | {"model": merged["model"] | {"ignore_merges": False}}).model
    unreachable = [token for token in new if [made.value for made in model.tokenize(token)] != [token]]
    assert not unreachable, f"merges that never apply: {unreachable[:3]}"


# What a base token is, for learning.


@dataclass(frozen=True)
class _Alphabet:
    """Per base id, what decides whether a merge may join two tokens. Whether it may depends on the two tokens alone, so that a merge
    that was never learnt across a border never applies across one."""

    strings: list[str]  # as the model spells them
    starts_word: list[bool]  # carries the word mark, so the token before it belongs to another word
    barred: list[bool]  # special, unknown, byte, white space, digits if the base reads numbers digit by digit: in no new token
    unreadable: list[bool]  # special, unknown, byte, sealed
    first_class: list[str]
    last_class: list[str]
    by_class: bool  # the base does not part letters, digits and signs itself, so borders between them bar merges
    taken: frozenset[str]  # strings that mean something already

    @classmethod
    def of(cls, base: Json, tokenizer: Tokenizer, sealed: Collection[int] = ()) -> _Alphabet:
        vocabulary = _vocabulary(base)
        strings = [""] * _size(base)
        for token, i in vocabulary.items():
            strings[i] = token
        byte_level = _mentions([base.get("pre_tokenizer"), base.get("normalizer")], "ByteLevel")
        mark = "Ġ" if byte_level else "▁"
        prefix = base["model"].get("continuing_subword_prefix") or ""
        read = _read_bytes if byte_level else str
        plain = [read(string.removeprefix(prefix).removeprefix(mark)).replace("▁", " ") for string in strings]
        hidden_ids = {*sealed, _unknown_id(base), *(token["id"] for token in base.get("added_tokens", []))}
        byte_tokens = {f"<0x{byte:02X}>" for byte in range(256)} if base["model"].get("byte_fallback") else set()
        unreadable = [i in hidden_ids or string in byte_tokens for i, string in enumerate(strings)]
        readable = [text for text, hidden in zip(plain, unreadable, strict=True) if not hidden]
        no_numbers = not any(a.isdecimal() and b.isdecimal() for text in readable for a, b in pairwise(text))
        return cls(
            strings=strings,
            starts_word=[string.startswith(mark) for string in strings],
            barred=[
                hidden or (not text and string != mark) or any(c.isspace() or (no_numbers and c.isdecimal()) for c in text)
                for hidden, string, text in zip(unreadable, strings, plain, strict=True)
            ],
            unreadable=unreadable,
            first_class=[_class(text[0]) if text else "" for text in plain],
            last_class=[_class(text[-1]) if text else "" for text in plain],
            by_class=len(set(tokenizer.encode("ab,cd", add_special_tokens=False).word_ids)) == 1,
            taken=frozenset(strings),
        )  # fmt: skip

    def runs(self, word: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """The stretches of two or more tokens of a word that merges may join."""
        start = 0
        for i in range(1, len(word) + 1):
            if i == len(word) or not self._may_join(word[i - 1], word[i]):
                if i - start > 1:
                    yield word[start:i]
                start = i

    def _may_join(self, left: int, right: int) -> bool:
        if self.barred[left] or self.barred[right]:
            return False
        return not self.by_class or self.last_class[left] in ("", self.first_class[right])

    def spell(self, private: str) -> str:
        """The model's spelling of a string of private characters. The prefix of inner WordPiece pieces is the caller's concern."""
        return "".join(self.strings[ord(letter) - _FIRST_PRIVATE] for letter in private)


def _class(letter: str) -> str:
    """Letter, digit or sign; marks count as letters, and so does the rest of a character cut in its bytes."""
    category = unicodedata.category(letter)
    return {"L": "letter", "M": "letter", "N": "digit"}.get(category[0], "letter" if letter == "\ufffd" else "sign")


def _read_bytes(token: str) -> str:
    """The text of a byte-level token; what is no byte letter stands for itself (added tokens), half characters for U+FFFD."""
    if not all(letter in BYTE_OF for letter in token):
        return token
    return bytes(BYTE_OF[letter] for letter in token).decode(errors="replace")


# Words, as base ids and as private strings.


@dataclass(frozen=True)
class _Words:
    words: Counter[tuple[int, ...]]  # words of two or more base tokens
    number: int  # of all words
    tokens: int  # of all base tokens

    def runs(self, alphabet: _Alphabet) -> dict[str, int]:
        """Private strings and their counts."""
        counts: Counter[str] = Counter()
        for word, count in self.words.items():
            for run in alphabet.runs(word):
                counts["".join(chr(_FIRST_PRIVATE + i) for i in run)] += count
        return counts

    def facts(self) -> dict[str, Any]:
        return {"words": self.number, "tokens_before": self.tokens}


def _count_words(tokenizer: Tokenizer, texts: Iterable[str], alphabet: _Alphabet) -> _Words:
    """Words as the base's pre-tokenizer parts them; a base that parts none (Llama 2) has its word mark instead."""
    words: Counter[tuple[int, ...]] = Counter()
    number = tokens = 0
    starts = alphabet.starts_word
    for batch in _batches(texts):
        for encoded in tokenizer.encode_batch(batch, add_special_tokens=False):
            word: list[int] = []
            at: int | None = None
            for i, word_id in zip(encoded.ids, encoded.word_ids, strict=True):
                if word_id != at or starts[i]:
                    number += bool(word)
                    if len(word) > 1:
                        words[tuple(word)] += 1
                    word, at = [], word_id
                word.append(i)
            number += bool(word)
            if len(word) > 1:
                words[tuple(word)] += 1
            tokens += len(encoded.ids)
    if tokens > _MOST_TOKENS:
        raise DataError(f"merge: the texts hold {tokens} base tokens; pairs are counted up to {_MOST_TOKENS}: give a sample of them")
    return _Words(words, number, tokens)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


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


def _choose_merges(words: _Words, alphabet: _Alphabet, number: int, min_count: int) -> tuple[list[str], list[Pair], dict[str, Any]]:
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
    kind: Kind, prepared: Json, words: _Words, alphabet: _Alphabet, number: int, min_count: int
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
        spelled = dict.fromkeys(spell(ord(letter) - _FIRST_PRIVATE for letter in token) for token in made)
        candidates = [token for token in spelled if token not in alphabet.taken]
        chosen, saved = _most_used(kind, prepared, candidates, texts, number, min_count)
        if len(chosen) == number:
            break
    if not chosen:
        raise _nothing_to_learn(min_count)
    facts = {
        "tokens_after": words.tokens - saved, "unused_kept_as_parts": 0, "unused_tokens": 0, "unreachable_tokens": 0,
        "pruned_tokens": len(candidates) - len(chosen), "already_in_base": len(spelled) - len(candidates),
    }  # fmt: skip
    return chosen, facts


def _most_used(
    kind: Kind, prepared: Json, candidates: list[str], texts: Mapping[str, int], number: int, min_count: int
) -> tuple[list[str], int]:
    """Up to `number` of the candidates, and the tokens that they save.

    A piece stays if words that expand to the base's tokens use it `min_count` times, and no fewer than other words do: pieces that
    mostly cut words anew are worth little (this leaves a third of the lines that do not expand, for 0.15 % more tokens).
    """
    first_id = _size(prepared)
    model = _load(prepared).model
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
    model = _load(merged).model
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
    base_model = _load(prepared).model
    scores = [score for _, score in model["vocab"]]
    lowest = min(scores)
    pieces = []
    for token in new:
        parts = base_model.tokenize(token)
        pieces.append([token, max(lowest, sum(scores[part.id] for part in parts) + _JOIN * (len(parts) - 1))])
    return prepared | {"model": model | {"vocab": [*model["vocab"], *pieces]}}


def _longest_matches(token: str, vocabulary: Mapping[str, int], prefix: str) -> list[str]:
    """A WordPiece token in the base's pieces, by the model's rule: the longest match, from left to right."""
    rest, start = (token.removeprefix(prefix), prefix) if token.startswith(prefix) else (token, "")
    pieces = []
    while rest:
        end = next(end for end in range(len(rest), 0, -1) if start + rest[:end] in vocabulary)
        pieces.append(start + rest[:end])
        rest, start = rest[end:], prefix
    return pieces


# What a tokenizer.json holds.


def _kind(model: Json) -> Kind:
    """The kind of a model; files of old versions do not name it."""
    named = model.get("type", next((kind for key, kind in _TELLING.items() if key in model), None))
    for kind in _TELLING.values():
        if named == kind:
            return kind
    raise ConfigError(f"the base tokenizer's model is {named}; 'continue' knows BPE, WordPiece and Unigram")


_TELLING: dict[str, Kind] = {"merges": "BPE", "max_input_chars_per_word": "WordPiece", "unk_id": "Unigram"}


def _ids(tokenizer: Json) -> set[int]:
    vocabulary = tokenizer["model"]["vocab"]
    own = range(len(vocabulary)) if isinstance(vocabulary, list) else vocabulary.values()
    return {*own, *(token["id"] for token in tokenizer.get("added_tokens", []))}


def _size(tokenizer: Json) -> int:
    return len(_ids(tokenizer))


def _vocabulary(tokenizer: Json) -> dict[str, int]:
    vocabulary = tokenizer["model"]["vocab"]
    return {token: i for i, (token, _) in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary


def _unknown_id(tokenizer: Json) -> int | None:
    model = tokenizer["model"]
    return model["unk_id"] if "unk_id" in model else _vocabulary(tokenizer).get(model.get("unk_token"))


def _count(ids: list[int], wanted: int | None) -> int:
    return 0 if wanted is None else ids.count(wanted)


def _load(tokenizer: Json) -> Tokenizer:
    loaded = Tokenizer.from_str(json.dumps(tokenizer))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


def _mentions(part: Any, kind: str) -> bool:
    """Whether a normaliser or pre-tokenizer, or one of its members, is of a kind."""
    if isinstance(part, list):
        return any(_mentions(member, kind) for member in part)
    return isinstance(part, dict) and (part.get("type") == kind or any(_mentions(member, kind) for member in part.values()))


def _nothing_to_learn(min_count: int) -> DataError:
    return DataError(
        f"merge: the texts hold no two neighbouring base tokens of one word that occur {min_count} times; give more text, "
        "or a smaller min_count"
    )


def _guarantee(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DataError(f"merge: a guarantee does not hold: {otherwise}. Please report the base tokenizer and the texts")
