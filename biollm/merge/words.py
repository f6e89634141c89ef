"""How a base cuts a text into words, written so that sequences are left whole and plain text loses little speed.

A residue that is no letter is cut off by such words as GPT-2's, unless it is spelt with codes, which take rules of their own. And a rule
behind the cut into words is tried at every word, one before it once for a text. So three kinds of base get the same words in another way:

    GPT-2, Llama 3, Qwen    ByteLevel, or Split, cuts  a Split whose letters are none of a sequence's; ByteLevel without words
    SentencePiece Unigram   Metaspace puts ▁ in front  a space in front, put by the normaliser; Metaspace puts nothing (not where
                            the normaliser or added tokens would feel that space: see is_spaced)
    t5-small's              Metaspace puts ▁ in front, a space before each ▁ of the text, put by the normaliser; WhitespaceSplit,
                            and cuts at others         which stands before Metaspace, cuts there

The proof of a merge shows on real text that nothing changed. `original` is the inverse of `rewritten`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from functools import cache
from itertools import chain
from typing import Any

from biollm.core.files import canonical_json
from biollm.merge.spelling import METASPACE, members
from biollm.merge.tokenizer_file import normaliser_of
from tokenizers import Regex, pre_tokenizers

Part = dict[str, Any]

# The words that ByteLevel has of its own, GPT-2's, written so that they are found sooner: one look for all contractions, and nothing is
# kept to go back to within a word (++).
_GPT2 = "'(?:[stmd]|re|ve|ll)| ?\\p{L}++| ?\\p{N}++| ?[^\\s\\p{L}\\p{N}]++|\\s+(?!\\S)|\\s+"
_LETTER = "\\p{L}"
_CLASS_OR_LETTER = re.compile(r"\[(?:\\.|[^\]\\])*\]|\\p\{L\}")
SPACE = " "
_SPACES: Part = {"type": "Metaspace", "replacement": METASPACE, "prepend_scheme": "never", "split": True}
_IN_FRONT: Part = {"type": "Prepend", "prepend": SPACE}
_CUT: Part = {"type": "Replace", "pattern": {"Regex": f"(?!\\A)(?={METASPACE})"}, "content": SPACE}


def rewritten(bare: dict[str, Any], private: str) -> dict[str, Any]:
    """A base's tokenizer.json with its words written for sequences that are spelt with the letters `private`.

    A text of a spaced base has to begin with a space of its own then, but before a sequence.
    """
    parts = members(bare["pre_tokenizer"], "pretokenizers")
    if is_spaced(members(bare["normalizer"], "normalizers"), parts, bare.get("added_tokens", [])):
        return bare | {"pre_tokenizer": _SPACES}
    match parts:
        case [{"type": "WhitespaceSplit"} as spaces, {"type": "Metaspace", "replacement": "▁"} as words] if words.get("split", True):
            return bare | {
                "normalizer": sequence("normalizers", [*members(bare["normalizer"], "normalizers"), _CUT]),
                "pre_tokenizer": sequence("pretokenizers", [spaces, words | {"split": False}]),
            }
        case [{"type": "ByteLevel", "add_prefix_space": False} as words] if words.get("use_regex", True):
            pattern = _GPT2
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False} as words,
        ]:
            pass
        case _:
            return bare
    apart = _letters_apart(pattern, private)
    if not _leaves_whole(apart, private):
        return bare
    return bare | {"pre_tokenizer": sequence("pretokenizers", [split(apart, "Isolated"), words | {"use_regex": False}])}


def original(merged: dict[str, Any], private: str) -> dict[str, Any]:
    """A merged tokenizer.json with the base's own words; what else was added for sequences stays around them."""
    normalisers = members(merged["normalizer"], "normalizers")
    parts = members(merged["pre_tokenizer"], "pretokenizers")
    if _CUT in normalisers:
        normalisers.remove(_CUT)
        parts = [part | {"split": True} if part["type"] == "Metaspace" else part for part in parts]
        return merged | {"normalizer": sequence("normalizers", normalisers), "pre_tokenizer": sequence("pretokenizers", parts)}
    match parts:
        case [*before, {"type": "Split", "pattern": {"Regex": apart}}, {"type": "ByteLevel"} as words] if apart.endswith(_runs(private)):
            own = apart.removesuffix(_runs(private)).replace(_other_letter(private), _LETTER)
            gpt2 = own == _GPT2
            parts = [*before, *([] if gpt2 else [split(own, "Isolated")]), words | {"use_regex": gpt2}]
        case [*before, spaces] if spaces == _SPACES and normalisers[:1] == [_IN_FRONT]:
            parts = [*before, _SPACES | {"prepend_scheme": "always"}]
        case _:
            return merged
    return merged | {"pre_tokenizer": sequence("pretokenizers", parts)}


def is_spaced(normalisers: list[Part], pre_tokenizers: list[Part], added_tokens: list[Part]) -> bool:
    """Whether a base's words begin with ▁ for the space before them, at the start of a text too (SentencePiece's Unigram), and its
    normaliser may put that space there.

    It may not where an added token is looked for in normalised text: the token would be normalised with a space in front, and what stands
    behind it would get none. Nor where the normaliser itself makes white space, and leaves it beside that in front.
    Where a base cuts at whitespace first (t5-small), a ▁ has the place of its word, not that of the space: there nothing is rewritten.
    """
    match pre_tokenizers:
        case [{"type": "Metaspace", "replacement": "▁"} as words] if words.get("split", True):
            scheme = words.get("prepend_scheme", "always" if words.get("add_prefix_space") else "never")
            if scheme != "always" or any(part["type"] == "Strip" and part["strip_left"] for part in normalisers):
                return False
            own = normalisers[1:] if normalisers[:1] == [_IN_FRONT] else normalisers
            return not any(token["normalized"] for token in added_tokens) and _takes_space_in_front(canonical_json(own))
    return False


@cache
def _takes_space_in_front(normalisers: str) -> bool:
    """Whether a text that begins with what these normalisers make white space of, or delete, is read alike with a space in front."""
    normalise = normaliser_of(json.loads(normalisers))
    for letter in _may_be_space():
        if not _is_space_or_nothing(normalise(f"a{letter}a")):
            continue
        for text in (letter, letter * 2, f"{letter}a", f"{letter} a", f"{letter}{METASPACE}a"):
            own, spaced = (normalise(start + text).replace(SPACE, METASPACE) for start in ("", SPACE))
            if spaced != (METASPACE if own and not own.startswith(METASPACE) else "") + own:
                return False
    return True


def _is_space_or_nothing(normalised: str) -> bool:
    return normalised == "aa" or any(letter.isspace() or letter == METASPACE for letter in normalised)


@cache
def _may_be_space() -> list[str]:
    """Letters that normalisers make white space of or delete: spaces, controls, marks without width, and what has a space in it (NFKC)."""
    letters = map(chr, chain(range(0x10000), range(0xE0000, 0xE1000)))
    kinds = {"Zs", "Zl", "Zp", "Cc", "Cf", "Mn"}
    return [x for x in letters if x != SPACE and (unicodedata.category(x) in kinds or SPACE in unicodedata.normalize("NFKC", x))]


def sequence(name: str, parts: list[Part]) -> Part | None:
    """A Sequence of normalisers, pre-tokenizers or decoders; one alone stands for itself."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return {"type": "Sequence", name: parts}


def split(pattern: str, behavior: str) -> Part:
    """A pre-tokenizer that cuts by a regular expression."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def _letters_apart(pattern: str, private: str) -> str:
    """Words with sequences as words of their own. They come last, where nothing else can match: a way to match that stands before the
    words is tried at each of them, which takes 7 %."""

    def narrowed(found: re.Match[str]) -> str:
        return _other_letter(private) if found.group() == _LETTER else found.group()

    return _CLASS_OR_LETTER.sub(narrowed, pattern) + _runs(private)


def _leaves_whole(pattern: str, private: str) -> bool:
    """Whether nothing else in a base's words matches a part of a sequence, as `.` would."""
    run = "".join(private[0] + residue for residue in "C(=1)a")
    return run in [piece for piece, _ in pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(f">{run}<")]


def _other_letter(private: str) -> str:
    return f"[{_LETTER}&&[^{private}]]"


def _runs(private: str) -> str:
    return f"|(?:[{private}]++.)++"
