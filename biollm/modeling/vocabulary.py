"""The domain part of a merged tokenizer: which domains it holds, how their residues are spelt, and which ids are theirs.

A merged tokenizer.json is complete without this; the sidecar `biollm_vocabulary.json` beside it lets biollm take the fast path
for strings that are known to be sequences, and count residues per token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator

from biollm.core.alphabets import Modality
from biollm.core.errors import ConfigError, DataError
from biollm.core.files import read_sidecar, write_json
from biollm.modeling.byte_level import BYTE_OF
from tokenizers import Tokenizer

SIDECAR = "biollm_vocabulary.json"
TOKENIZER = "tokenizer.json"
# What a tokenizer is, on disk; these files travel with every model folder.
TOKENIZER_FILES = (TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", SIDECAR)


class Domain(BaseModel):
    """One domain of a merged tokenizer.

    Strategy `isolate`: a residue is written as its unit, the domain's mark before it (see biollm/merge/isolate.py); `units` are the
    spellings in a text, `model_units` those in the model's vocabulary. Strategy `continue`: words in the base's own letters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    strategy: Literal["isolate", "continue"]
    modality: Modality
    kind: str  # of the domain tokenizer: bpe, wordpiece, unigram, kmer, char
    first_id: int
    new_tokens: int
    scaffold_tokens: int = 0  # the first of them: they only build units, and stand for no residue
    mark: str = ""
    model_mark: str = ""  # as the model spells it; every model unit begins with it
    units: dict[str, str] = {}
    model_units: dict[str, str] = {}
    case: Literal["upper", "any"] = "upper"
    min_run: int | None = None  # runs of so many letters in a text are read as sequences; None: only what stands between tags
    tags: bool = False
    needs_cut: bool = False  # the pre-tokenizer cuts sequences out of a text
    piece_residues: int | None = None  # sequences are cut into pieces of so many residues before tokens are looked for

    @field_validator("units", "model_units")
    @classmethod
    def _sorted(cls, units: dict[str, str]) -> dict[str, str]:
        """The rules of a merged tokenizer are written from these, so their order may not depend on where they come from."""
        return dict(sorted(units.items()))

    @property
    def ids(self) -> range:
        return range(self.first_id, self.first_id + self.new_tokens)

    @property
    def letters(self) -> str:
        """The private letters, the mark first."""
        return "".join(dict.fromkeys(letter for unit in self.units.values() for letter in unit[:-1]))

    @property
    def folds_case(self) -> bool:
        """Whether a lower-case residue is the same residue: not in SMILES, where c is an aromatic C."""
        return self.modality != "smiles"

    def to_private(self, sequences: list[str], names: list[str] | None = None) -> list[str]:
        """Sequences spelt in units: the tokenizer gives them the ids of the ordinary path.

        Raises DataError naming the sequence (by `names`, else by position) and the letter if one holds a letter that is no
        residue, or is empty.
        """
        spelling = {residue.lower(): unit for residue, unit in self.units.items()} if self.folds_case else {}
        table = str.maketrans(spelling | self.units)
        foreign = re.compile(f"[^{re.escape(''.join(self.units))}]", re.IGNORECASE if self.folds_case else 0)
        for position, sequence in enumerate(sequences):
            if (found := foreign.search(sequence)) or not sequence:
                name = names[position] if names else f"number {position}"
                what = f"holds {found.group()!r} at position {found.start() + 1}" if found else "is empty"
                case = " in either case" if self.folds_case else ""
                raise DataError(f"sequence {name} {what}; {self.modality} sequences hold {''.join(self.units)}{case}")
        return [sequence.translate(table) for sequence in sequences]


class DomainVocabulary(BaseModel):
    """The sidecar of a merged tokenizer: its domains in the order in which they were merged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_vocab_size: int
    domains: list[Domain]

    @classmethod
    def load(cls, folder: Path) -> DomainVocabulary | None:
        """The domain vocabulary of a model or tokenizer folder, or None if the tokenizer is an ordinary one."""
        path = folder / SIDECAR
        return read_sidecar(path, cls) if path.is_file() else None

    def save(self, folder: Path) -> None:
        write_json(folder / SIDECAR, self.model_dump())

    @property
    def new_tokens(self) -> int:
        return sum(domain.new_tokens for domain in self.domains)

    @property
    def isolated(self) -> list[Domain]:
        return [domain for domain in self.domains if domain.strategy == "isolate"]

    @property
    def sequence_modalities(self) -> list[Modality]:
        """What its domains of sequences read, each once, in their order."""
        return list(dict.fromkeys(domain.modality for domain in self.isolated))

    def sequence_domain(self, modality: str | None = None) -> Domain | None:
        """The domain that reads sequences of a modality, or the first that reads sequences at all; None if there is none."""
        return next((d for d in self.isolated if modality in (None, d.modality)), None)

    def residues_by_id(self, tokenizer: Tokenizer) -> NDArray[np.int64]:
        """How many residues each token stands for: (vocab,) int64, 0 for every token of the base and for words."""
        counts = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
        for domain in self.isolated:
            for number in domain.ids[domain.scaffold_tokens :]:
                counts[number] = str(tokenizer.id_to_token(number)).count(domain.model_mark)
        return counts

    def readable(self, tokenizer: Tokenizer) -> list[str]:
        """The text of every new token, in id order: residues for domains of sequences; for words as `readable_texts` spells them."""
        as_text = readable_texts(tokenizer)
        texts = []
        for domain in self.domains:
            if domain.strategy == "continue":
                texts += [as_text[number] for number in domain.ids]
                continue
            spelling = {unit: residue for residue, unit in domain.model_units.items()}
            pattern = re.compile("|".join(re.escape(unit) for unit in sorted(spelling, key=len, reverse=True)))
            tokens = (str(tokenizer.id_to_token(number)) for number in domain.ids)
            texts += ["".join(spelling[unit] for unit in pattern.findall(token)) for token in tokens]
        return texts


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id of what a tokenizer cannot read; None if it can read everything."""
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] == "Unigram":
        return model["unk_id"]  # type: ignore[no-any-return]
    return tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else None


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer.json of a folder, with truncation and padding off: what is too long is windowed by us, never cut in silence.

    Raises ConfigError if the folder has no tokenizer.json or it is not one.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        raise ConfigError(
            f"{folder}: holds no {TOKENIZER}; biollm needs the fast tokenizer of the model: "
            "save it once with AutoTokenizer.from_pretrained(…).save_pretrained(folder)"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises a bare Exception for every fault of the file
        raise ConfigError(f"{path}: not a tokenizer.json that this version of tokenizers reads: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def readable_texts(tokenizer: Tokenizer) -> list[str]:
    """The text of every token by id, spelt alike for all kinds of tokenizers, so that character n-grams agree across them.

    A token that starts a word begins with a space (from "Ġ", "▁", or the lack of "##"); special tokens, unused ids and
    bytes that are no text of their own are "". Length: the largest id + 1.
    """
    spec = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    texts = [""] * (max(vocabulary.values()) + 1)
    added = {token["content"]: bool(token["special"]) for token in spec["added_tokens"]}
    spell = _speller(spec)
    for token, number in vocabulary.items():
        if token not in added:
            texts[number] = spell(token)
        elif not added[token]:
            texts[number] = token
    return texts


def _speller(spec: dict[str, Any]) -> Callable[[str], str]:
    if spec["model"]["type"] == "WordPiece":
        prefix = str(spec["model"]["continuing_subword_prefix"])
        reserved = ("[unused", str(spec["model"]["unk_token"]))
        return lambda token: "" if token.startswith(reserved) else token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"
    if '"ByteLevel"' in json.dumps([spec["pre_tokenizer"], spec["decoder"]]):
        return lambda token: bytes(BYTE_OF.get(letter, 0x3F) for letter in token).decode(errors="ignore")
    return lambda token: "" if _is_byte_token(token) else token.replace("▁", " ")


def _is_byte_token(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def base_pieces(base: Tokenizer, tokens: Sequence[str]) -> list[list[int]]:
    """The ids of the base tokens that a base makes of tokens of words, spelt as its model spells them, at their place in a word.

    The model itself is asked, not the whole tokenizer: that would read the marks of a token ("##", "▁") as letters of a text.
    """
    spec = json.loads(base.to_str())["model"]
    if spec["type"] != "WordPiece":
        return [[piece.id for piece in base.model.tokenize(token)] for token in tokens]
    prefix, vocabulary = str(spec["continuing_subword_prefix"]), base.get_vocab()
    return [[vocabulary[piece] for piece in longest_matches(token, vocabulary, prefix)] for token in tokens]


def longest_matches(token: str, vocabulary: Mapping[str, int], prefix: str) -> list[str]:
    """A WordPiece token in the base's pieces, by the model's rule: the longest match, from left to right."""
    rest, start = (token.removeprefix(prefix), prefix) if token.startswith(prefix) else (token, "")
    pieces = []
    while rest:
        end = next(end for end in range(len(rest), 0, -1) if start + rest[:end] in vocabulary)
        pieces.append(start + rest[:end])
        rest, start = rest[end:], prefix
    return pieces
