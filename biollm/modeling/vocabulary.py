"""The domain part of a merged tokenizer: which private letter stands for which residue, and fast ways in and out.

A merged tokenizer.json is complete without this; the sidecar `biollm_vocabulary.json` beside it lets biollm take the fast path
for strings that are known to be sequences, and count residues per token.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from biollm.core.alphabets import DNA
from biollm.core.errors import ConfigError, DataError
from biollm.core.files import read_sidecar, write_json
from tokenizers import Tokenizer

SIDECAR = "biollm_vocabulary.json"
TOKENIZER = "tokenizer.json"
# What a tokenizer is, on disk; these files travel with every model folder.
TOKENIZER_FILES = (TOKENIZER, "tokenizer_config.json", SIDECAR)


class DomainVocabulary(BaseModel):
    """The sidecar of a merged tokenizer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Literal["isolate"]
    modality: Literal["dna"]
    private_letters: dict[str, str]  # residue -> private letter
    continuing_prefix: str
    min_run: int
    piece_residues: int
    base_vocab_size: int
    new_tokens: int

    @classmethod
    def load(cls, folder: Path) -> DomainVocabulary | None:
        """The domain vocabulary of a model or tokenizer folder, or None if the tokenizer is an ordinary one."""
        path = folder / SIDECAR
        return read_sidecar(path, cls) if path.is_file() else None

    def save(self, folder: Path) -> None:
        write_json(folder / SIDECAR, self.model_dump())

    def to_private(self, sequences: list[str], names: list[str] | None = None) -> list[str]:
        """Sequences in the private alphabet: the fast path into the tokenizer, with the ids of the ordinary path.

        Either case is read. Raises DataError naming the sequence (by `names`, else by position) and the letter if one holds a
        letter that is no residue, or is empty.
        """
        table = str.maketrans(self.private_letters | {residue.lower(): letter for residue, letter in self.private_letters.items()})
        foreign = re.compile(f"[^{''.join(self.private_letters)}]", re.IGNORECASE)
        for position, sequence in enumerate(sequences):
            if (found := foreign.search(sequence)) or not sequence:
                name = names[position] if names else f"number {position}"
                what = f"holds {found.group()!r} at position {found.start() + 1}" if found else "is empty"
                raise DataError(f"sequence {name} {what}; {self.modality} sequences hold {DNA} in either case")
        return [sequence.translate(table) for sequence in sequences]

    def residues_by_id(self, tokenizer: Tokenizer) -> NDArray[np.int64]:
        """How many residues each token stands for: (vocab,) int64, 0 for every token of the base."""
        letters = set(self.private_letters.values())
        counts = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
        for token, number in tokenizer.get_vocab().items():
            counts[number] = sum(letter in letters for letter in token)
        return counts


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
