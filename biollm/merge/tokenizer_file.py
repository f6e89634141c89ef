"""What the content of a tokenizer.json says of its model, its ids and its tokens."""

from __future__ import annotations

import copy
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, Literal

from biollm.core.errors import ConfigError
from biollm.merge.spelling import POOL
from tokenizers import Tokenizer

Kind = Literal["BPE", "WordPiece", "Unigram"]
Json = dict[str, Any]
_BYTE = re.compile("<0x[0-9A-F]{2}>")


def model_kind(model: Json) -> Kind:
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


def size(tokenizer: Json) -> int:
    return len(_ids(tokenizer))


def vocabulary_of(tokenizer: Json) -> dict[str, int]:
    vocabulary = tokenizer["model"]["vocab"]
    return {token: i for i, (token, _) in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary


def unknown_id(tokenizer: Json) -> int | None:
    model = tokenizer["model"]
    return model["unk_id"] if "unk_id" in model else vocabulary_of(tokenizer).get(model.get("unk_token"))


def load(tokenizer: Json) -> Tokenizer:
    loaded = Tokenizer.from_str(json.dumps(tokenizer))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


def mentions(part: Any, kind: str) -> bool:
    """Whether a normaliser or pre-tokenizer, or one of its members, is of a kind."""
    if isinstance(part, list):
        return any(mentions(member, kind) for member in part)
    return isinstance(part, dict) and (part.get("type") == kind or any(mentions(member, kind) for member in part.values()))


def next_id(tokenizer: Json) -> int:
    """The first free id. Raises ConfigError if the ids are not 0 to n - 1."""
    ids = _ids(tokenizer)
    if ids != set(range(len(ids))):
        raise ConfigError(
            f"the base tokenizer's ids are not 0 to {len(ids) - 1}: {len(ids)} tokens, largest id {max(ids)}; repair it first"
        )
    return len(ids)


def normaliser_of(parts: list[Json]) -> Callable[[str], str]:
    """What normalisers, one after the other, make of a text."""
    bare = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
    normaliser = load(bare | {"normalizer": {"type": "Sequence", "normalizers": parts}}).normalizer
    return lambda text: str(normaliser.normalize_str(text))


def fold_added_tokens(base: Json) -> Json:
    """A copy in which the added tokens stand in the model's vocabulary too, under the ids they have; truncation and padding off.

    On loading, tokenizers numbers an added token that the model does not know behind the model's vocabulary, whatever id the file
    gives: tokens appended there would move it (GPT-NeoX, ModernBERT, Llama 3, Qwen keep special tokens so).
    The model must not read such a token out of a text (`check_added_tokens`). So in a Unigram model it scores less than its letters.
    """
    folded = copy.deepcopy(base)
    folded["truncation"] = folded["padding"] = None
    vocabulary = folded["model"]["vocab"]
    outside = sorted((token["id"], token["content"]) for token in base.get("added_tokens", []))
    if isinstance(vocabulary, list):
        lowest, out_of_reach = lowest_score(base), _letters_that_are_pieces(base)
        for i, content in outside:
            if i >= len(base["model"]["vocab"]):
                below = float((len(content) + 1) * math.floor(min(lowest, -1.0)))  # whole: saved and loaded, it is the same to the last bit
                vocabulary.append([content, below if out_of_reach.issuperset(content) else lowest])
    else:
        vocabulary |= {content: i for i, content in outside}
    return folded


def lowest_score(tokenizer: Json) -> float:
    """The score of the least likely piece of a Unigram model, added tokens aside (folded, they score less than any text)."""
    added = {token["id"] for token in tokenizer.get("added_tokens", [])}
    scores = [float(score) for _, score in tokenizer["model"]["vocab"]]
    return min((score for i, score in enumerate(scores) if i not in added), default=min(scores))


def _letters_that_are_pieces(base: Json) -> set[str]:
    """The letters that are pieces of a Unigram model; none if some piece holds another letter, which in a word could be unknown.

    The least likely piece sets what an unknown letter costs. Where no piece holds one, the cost decides nothing, and pieces may score
    less than all others. (SentencePiece and `tokenizers` train models in this way; control symbols, bytes and the private letters of
    domains are no part of a text.)
    """
    added = {token["id"] for token in base.get("added_tokens", [])}
    pieces = [(i, piece) for i, (piece, _) in enumerate(base["model"]["vocab"])]
    letters = {piece for i, piece in pieces if len(piece) == 1 and i not in added}
    learnt = (piece for i, piece in pieces if i not in added and i != base["model"].get("unk_id") and not _BYTE.fullmatch(piece))
    return letters if all(letters.issuperset(piece) or not set(POOL).isdisjoint(piece) for piece in learnt) else set()


def check_added_tokens(base: Json, folded: Json) -> None:
    """Raise ConfigError if text that the base does not read as an added token is read as one in the model's vocabulary.

    Tried on what the base's normaliser may turn into the token's letters, and, for tokens that are words of their own, on longer words.
    """
    known, model = vocabulary_of(base), base["model"]
    outside = [str(token["content"]) for token in base.get("added_tokens", []) if token["content"] not in known]
    if "merges" in model and not model.get("ignore_merges"):
        outside = [content for content in outside if len(content) == 1]  # no merge makes a longer one
    if not outside:
        return
    before, after = load(base), load(folded)
    for content in outside:
        texts = list(_like(content))
        for text, old, new in zip(texts, *(each.encode_batch(texts, add_special_tokens=False) for each in (before, after)), strict=True):
            if old.ids != new.ids:
                raise ConfigError(
                    f"the base tokenizer's added token {content!r} has to become a part of its model, for new ids to follow, and then "
                    f"{text!r} is no longer read as {old.tokens} but as {new.tokens}; make the token an ordinary one (normalized: true, "
                    "single_word: false), or remove it from the base's tokenizer.json"
                )


def _like(content: str) -> Iterator[str]:
    """Texts that hold what a normaliser may turn into `content`, alone and within words."""
    head, tail = content[:1], content[1:]
    wide = "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in content)
    inside = (head + letter + tail for letter in ("\u0301", "\u200b", "\u00ad", "\ufeff", "\x00"))
    changed = (content.upper(), content.lower(), content.capitalize(), content.swapcase(), unicodedata.normalize("NFD", content))
    for spelt in dict.fromkeys((content, wide, wide.swapcase(), *changed, *inside)):
        yield from (spelt, f"x{spelt}", f"{spelt}x", f"{spelt}_", f"a {spelt}d b")
