"""What a tokenizer is trained on, and what is held out: decided by content alone, the same in every run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from biollm.core.alphabets import ALPHABETS, DOUBLE_STRANDED, Modality, canonical, reverse_complement, reverse_complement_rna
from biollm.core.errors import DataError

# Contigs are cut into blocks before some are held out: else all of a chromosome would be held out or none.
BLOCK_BASES = 2048
HELD_OUT_ONE_IN = 20
# Trainers see sequences in words of this length; no token crosses a border between them, and one in 512 is little.
WORD_RESIDUES = 512


@dataclass(frozen=True)
class Corpus:
    """Sequences in residues: what is trained on, and what is not."""

    train: list[str]
    held_out: list[str]


def hold_out(sequences: Iterable[str], modality: Modality) -> Corpus:
    """Hold out about 1 in 20 sequences, chosen by a hash of the sequence itself.

    DNA and RNA are cut into blocks of 2,048 first, and the two strands of a block hash alike; the other modalities are not cut. Equal
    sequences therefore always fall on the same side, and but for text they count once. Similar ones (homologues, isoforms) may fall
    on both. If the hash picks none, the sequence with the smallest hash is held out, as long as another remains.
    """
    blocks = (block for sequence in sequences for block in _blocks(sequence, modality))
    hashes = [(_hash(block, modality), block) for block in (blocks if modality == "text" else dict.fromkeys(blocks))]
    limit = 2**64 // HELD_OUT_ONE_IN
    smallest = min((h for h, _ in hashes), default=0)
    if smallest >= limit and any(h != smallest for h, _ in hashes):
        limit = smallest + 1
    return Corpus([block for h, block in hashes if h >= limit], [block for h, block in hashes if h < limit])


def spread_evenly(sequences: list[str], residues: int) -> list[str]:
    """About so many residues, as whole sequences evenly spread over the list (at least one)."""
    total = sum(map(len, sequences))
    return sequences if total <= residues else _every(sequences, max(1, len(sequences) * residues // total))


def sample_evenly(sequences: list[str], max_residues: int) -> list[str]:
    """At most `max_residues` residues, as whole sequences evenly spread over the list. Longer sequences than that are left out.

    Raises DataError if all are longer.
    """
    fitting = [sequence for sequence in sequences if len(sequence) <= max_residues]
    if not fitting:
        raise DataError(
            f"tokenizer.max_residues is {max_residues:,}, but the shortest of the {len(sequences):,} sequences to train on has "
            f"{min(map(len, sequences)):,}; raise it"
        )
    sample = spread_evenly(fitting, max_residues)
    while (residues := sum(map(len, sample))) > max_residues:  # long ones happened to be picked
        sample = _every(fitting, max(1, len(sample) * max_residues // residues))
    return sample


def _every(sequences: list[str], number: int) -> list[str]:
    return [sequences[i * len(sequences) // number] for i in range(number)]


def both_strands(sequences: Iterable[str], modality: Modality) -> Iterator[str]:
    """Each sequence, and behind it its reverse complement."""
    opposite = reverse_complement_rna if modality == "rna" else reverse_complement
    for sequence in sequences:
        yield sequence
        yield opposite(sequence)


def training_words(sequences: Iterable[str], modality: Modality) -> Iterator[str]:
    """Sequences as the trainers see them: without the residue that means "not known" (N, X), in words of bounded length.

    So no learnt token holds that residue, which stays a token of its own.
    """
    if modality == "text":
        yield from sequences
        return
    unknown = ALPHABETS[modality].unknown
    for sequence in sequences:
        for run in re.split(f"{unknown}+", sequence) if unknown else [sequence]:
            yield from (run[i : i + WORD_RESIDUES] for i in range(0, len(run), WORD_RESIDUES))


def _blocks(sequence: str, modality: Modality) -> Iterator[str]:
    if modality in DOUBLE_STRANDED:
        yield from (sequence[i : i + BLOCK_BASES] for i in range(0, len(sequence), BLOCK_BASES))
    else:
        yield sequence


def _hash(sequence: str, modality: Modality) -> int:
    key = sequence
    if modality in DOUBLE_STRANDED:
        key = canonical(sequence.replace("U", "T"))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
