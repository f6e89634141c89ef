"""The words of a text in base tokens, and as private strings: one private character per base token, over which merges are learnt."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from biollm.core.errors import DataError
from biollm.merge.tokenizer_file import Json, mentions, model_kind, size, unknown_id, vocabulary_of
from biollm.modeling.byte_level import BYTE_OF
from tokenizers import Tokenizer

FIRST_PRIVATE = 0x10000  # a million code points from here on, none of them white space: base id i is chr(FIRST_PRIVATE + i)
BATCH = 1000  # texts encoded at once
_MOST_TOKENS = 2**31 - 1  # the trainer of tokenizers counts pairs in 32 bits and overflows in silence


@dataclass(frozen=True)
class Alphabet:
    """Per base id, what decides whether a merge may join two tokens. Whether it may depends on the two tokens alone, so that a merge
    that was never learnt across a border never applies across one."""

    strings: list[str]  # as the model spells them
    starts_word: list[bool]  # carries the word mark, so the token before it belongs to another word
    barred: list[bool]  # special, unknown, byte, white space, digits (WordPiece, or a base that reads them one by one): in no new token
    unreadable: list[bool]  # special, unknown, byte, sealed
    first_class: list[str]
    last_class: list[str]
    by_class: bool  # the base does not part letters, digits and signs itself, so borders between them bar merges
    taken: frozenset[str]  # strings that mean something already

    @classmethod
    def of(cls, base: Json, tokenizer: Tokenizer, sealed: Collection[int] = ()) -> Alphabet:
        vocabulary = vocabulary_of(base)
        strings = [""] * size(base)
        for token, i in vocabulary.items():
            strings[i] = token
        byte_level = mentions([base.get("pre_tokenizer"), base.get("normalizer")], "ByteLevel")
        mark = "Ġ" if byte_level else "▁"
        prefix = base["model"].get("continuing_subword_prefix") or ""
        read = _read_bytes if byte_level else str
        plain = [read(string.removeprefix(prefix).removeprefix(mark)).replace("▁", " ") for string in strings]
        hidden_ids = {*sealed, unknown_id(base), *(token["id"] for token in base.get("added_tokens", []))}
        byte_tokens = {f"<0x{byte:02X}>" for byte in range(256)} if base["model"].get("byte_fallback") else set()
        unreadable = [i in hidden_ids or string in byte_tokens for i, string in enumerate(strings)]
        readable = [text for text, hidden in zip(plain, unreadable, strict=True) if not hidden]
        # The greedy longest match of WordPiece cuts any number anew that begins as a new one does: a third of lines with long numbers.
        no_numbers = model_kind(base["model"]) == "WordPiece" or not any(
            a.isdecimal() and b.isdecimal() for text in readable for a, b in pairwise(text)
        )
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
        return "".join(self.strings[ord(letter) - FIRST_PRIVATE] for letter in private)


def _class(letter: str) -> str:
    """Letter, digit or sign; marks count as letters, and so does the rest of a character cut in its bytes."""
    category = unicodedata.category(letter)
    return {"L": "letter", "M": "letter", "N": "digit"}.get(category[0], "letter" if letter == "\ufffd" else "sign")


def _read_bytes(token: str) -> str:
    """The text of a byte-level token; what is no byte letter stands for itself (added tokens), half characters for U+FFFD."""
    if not all(letter in BYTE_OF for letter in token):
        return token
    return bytes(BYTE_OF[letter] for letter in token).decode(errors="replace")


@dataclass(frozen=True)
class Words:
    words: Counter[tuple[int, ...]]  # words of two or more base tokens
    number: int  # of all words
    tokens: int  # of all base tokens

    def runs(self, alphabet: Alphabet) -> dict[str, int]:
        """Private strings and their counts."""
        counts: Counter[str] = Counter()
        for word, count in self.words.items():
            for run in alphabet.runs(word):
                counts["".join(chr(FIRST_PRIVATE + i) for i in run)] += count
        return counts

    def facts(self) -> dict[str, Any]:
        return {"words": self.number, "tokens_before": self.tokens}


def count_words(tokenizer: Tokenizer, texts: Iterable[str], alphabet: Alphabet) -> Words:
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
    return Words(words, number, tokens)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
