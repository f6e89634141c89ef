"""What the content of a tokenizer.json says of its model, its ids and its tokens."""

from __future__ import annotations

import copy
import json
from typing import Any, Literal

from biollm.core.errors import ConfigError
from tokenizers import Tokenizer

Kind = Literal["BPE", "WordPiece", "Unigram"]
Json = dict[str, Any]


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
