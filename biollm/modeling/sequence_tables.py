"""What a tokenizer makes of sequences of one modality, as plain data: read from its tokenizer.json, alone or merged into a base."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biollm.core.errors import ConfigError

# The fast path has a bit for each two tokens: 128 MiB, and some 10 s to fill them at first use (16,384 tokens: a quarter).
MOST_BPE_TOKENS = 1 << 15


@dataclass(frozen=True)
class BpeTables:
    """Byte-pair encoding over residues.

    residue_ids: the id of each single residue. merges: (left id, right id, merged id) in order of rank; of a pair that stands there
    twice the last counts, as in `tokenizers`. whole_tokens: tokens by their residues that a sequence becomes if it is exactly that
    token, whatever the merges say (`ignore_merges` of tokenizer.json); empty if there is no such rule.
    """

    residue_ids: Mapping[str, int]
    merges: Sequence[tuple[int, int, int]]
    whole_tokens: Mapping[str, int]
    piece_residues: int | None = None


@dataclass(frozen=True)
class GreedyTables:
    """WordPiece: each piece of `piece_residues` residues is read from the left, the longest token first.

    initial: tokens at the start of a piece; continuing: those behind. A piece that cannot be read is the one token `unknown_id`.
    """

    initial: Mapping[str, int]
    continuing: Mapping[str, int]
    unknown_id: int | None
    piece_residues: int


@dataclass(frozen=True)
class UnigramTables:
    """Unigram: the tokens whose scores (log-probabilities) have the largest sum. tokens: residues -> (id, score)."""

    tokens: Mapping[str, tuple[int, float]]
    piece_residues: int | None = None


@dataclass(frozen=True)
class KmerTables:
    """Words of k residues: side by side, the last one what is left; or overlapping, one at each residue.

    tokens: the dictionary; a word of `residues` that it lacks is `unknown_id`.
    """

    k: int
    residues: str
    tokens: Mapping[str, int]
    unknown_id: int | None
    overlapping: bool = False


Tables = BpeTables | GreedyTables | UnigramTables | KmerTables


def tables_from_domain(
    tokenizer_json: Mapping[str, Any],
    id_map: Mapping[int, int] | None,
    residues: str,
    *,
    piece_residues: int | None = None,
    kmer: int | None = None,
    overlapping: bool = False,
) -> Tables:
    """The tables of a domain tokenizer over plain residue letters, with ids as `id_map` translates them (None: as they are).

    piece_residues, kmer, overlapping: as domain.json says. The normaliser is not looked at: case is the encoder's affair.
    Raises ConfigError for a model, or a use of it, that the fast path does not know.
    """
    model, place = tokenizer_json["model"], "the domain tokenizer"
    _check_model(model, place)

    def mapped(number: int) -> int | None:
        return number if id_map is None else id_map.get(number)

    if model["type"] == "WordLevel":
        if kmer is None:
            raise ConfigError(f"{place} is a WordLevel model without 'kmer'; its domain.json says how many residues a word has")
        words = {t: i for t, n in model["vocab"].items() if set(t) <= set(residues) and (i := mapped(n)) is not None}
        unknown = model["vocab"].get(model["unk_token"])
        return KmerTables(kmer, residues, words, None if unknown is None else mapped(unknown), overlapping)
    vocabulary = {token: (i, score) for token, n, score in _vocabulary(model) if (i := mapped(n)) is not None}
    return _tables(model, vocabulary, {residue: residue for residue in residues}, piece_residues, place)


def tables_from_merged(
    tokenizer_json: Mapping[str, Any], units: Mapping[str, str], ids: range, *, piece_residues: int | None = None
) -> Tables:
    """The tables of one domain of a merged tokenizer.json.

    units: residue -> its unit as the model's vocabulary spells it; ids: the domain's, its scaffold included. Tokens that are no row
    of whole units (the scaffold, all base tokens) and merges that build a unit are left out.
    Raises ConfigError for a model that the fast path does not know, or one that lacks the token of a residue.
    """
    model, place = tokenizer_json["model"], "the merged tokenizer"
    _check_model(model, place)
    vocabulary = {token: (i, score) for token, i, score in _vocabulary(model) if i in ids}
    if model["type"] == "WordPiece" and (unknown := model["vocab"].get(model["unk_token"])) is not None:
        vocabulary[model["unk_token"]] = (unknown, 0.0)
    return _tables(model, vocabulary, units, piece_residues, place)


def _check_model(model: Mapping[str, Any], place: str) -> None:
    kind = model["type"]
    if kind not in ("BPE", "WordPiece", "Unigram", "WordLevel"):
        raise ConfigError(f"{place} is a {kind} model; the fast path reads BPE, WordPiece, Unigram and WordLevel")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if kind == "BPE" else ():
        if model.get(option):
            raise ConfigError(f"{place} has {option} {model[option]!r}; the fast path reads BPE without it: use the stock tokenizer")


def _vocabulary(model: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """Token, id and score (0 but for Unigram) of each entry but Unigram's unknown one."""
    if model["type"] == "Unigram":
        return [(token, i, score) for i, (token, score) in enumerate(model["vocab"]) if i != model["unk_id"]]
    return [(token, i, 0.0) for token, i in model["vocab"].items()]


def _tables(
    model: Mapping[str, Any], vocabulary: Mapping[str, tuple[int, float]], units: Mapping[str, str], piece_residues: int | None, place: str
) -> Tables:
    """vocabulary: token -> (id, score), of one domain; units: residue -> how the vocabulary spells it."""
    kind = model["type"]
    read = _Reader(units)
    prefix = (model.get("continuing_subword_prefix") or "") if kind == "WordPiece" else ""
    spelt: dict[str, str] = {}  # token -> residues, of those that are a row of whole units
    plain: dict[str, tuple[int, float]] = {}
    continuing: dict[str, tuple[int, float]] = {}
    for token, entry in vocabulary.items():
        follows = bool(prefix) and token.startswith(prefix)
        if residues := read(token[len(prefix) :] if follows else token):
            spelt[token] = residues
            (continuing if follows else plain)[residues] = entry
    if lacking := [residue for residue in units if residue not in plain]:
        raise ConfigError(f"{place} has no token for the single residue {lacking[0]!r}; the fast path needs one for each")
    ids = {residues: i for residues, (i, _) in plain.items()}
    if kind == "BPE":
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        known = ((spelt[left], spelt[right]) for left, right in pairs if left in spelt and right in spelt and left + right in spelt)
        merges = [(ids[left], ids[right], ids[left + right]) for left, right in known]
        whole = ids if model.get("ignore_merges") else {}
        return BpeTables({residue: ids[residue] for residue in units}, merges, whole, piece_residues)
    if kind == "Unigram":
        return UnigramTables(plain, piece_residues)
    longest = model["max_input_chars_per_word"] // max(map(len, units.values()))
    if piece_residues is None or piece_residues > longest:
        raise ConfigError(
            f"{place} is a WordPiece model that reads words of {longest} residues at most, and its sequences are cut into pieces of "
            f"{piece_residues}; give the piece_residues of its sidecar"
        )
    unknown = vocabulary.get(model["unk_token"])
    return GreedyTables(ids, {residues: i for residues, (i, _) in continuing.items()}, unknown[0] if unknown else None, piece_residues)


class _Reader:
    """Reads a token as residues; "" if it is no row of whole units."""

    def __init__(self, units: Mapping[str, str]) -> None:
        self.residue = {unit: residue for residue, unit in units.items()}
        alternatives = "|".join(re.escape(unit) for unit in sorted(self.residue, key=len, reverse=True))
        self.unit, self.row = re.compile(alternatives), re.compile(f"(?:{alternatives})+")

    def __call__(self, token: str) -> str:
        return "".join(self.residue[unit] for unit in self.unit.findall(token)) if self.row.fullmatch(token) else ""
