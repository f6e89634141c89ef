"""One sequence as a reader found it into one as the corpus holds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from biollm.core.alphabets import ALPHABETS, DOUBLE_STRANDED, Modality
from biollm.ingest.records.config import SmilesOptions
from biollm.ingest.records.source import load_extra

INVALID = "invalid SMILES"
BLANK = "blank sequence"
# What `Cleaned.altered` counts, by modality.
_UNKNOWN_BASES = "ambiguous bases read as N"
ALTERED = {"dna": _UNKNOWN_BASES, "methylated_dna": _UNKNOWN_BASES, "rna": _UNKNOWN_BASES, "protein": "final stops (*) taken off"}


class Cleaned(NamedTuple):
    """What became of one sequence.

    drop: why the record is left out, or "". wrong: what is wrong with it, or ""; that ends the reading. altered: how many of its letters
    were changed for others, or taken off; case, white space at the ends and the spelling of a molecule do not count.
    """

    sequence: str = ""
    drop: str = ""
    wrong: str = ""
    altered: int = 0


Cleaner = Callable[[str], Cleaned]


def cleaner_of(modality: Modality, smiles: SmilesOptions) -> Cleaner:
    """The function that cleans the sequences of a modality. Raises ResourceError for SMILES without RDKit."""
    if modality == "text":
        return _clean_text
    if modality == "smiles":
        return _smiles_cleaner(smiles.canonical)
    return _residue_cleaner(modality)


def _clean_text(raw: str) -> Cleaned:
    text = raw.strip()
    return Cleaned(text, "" if text else BLANK)


def _residue_cleaner(modality: Modality) -> Cleaner:
    alphabet = ALPHABETS[modality]

    def clean(raw: str) -> Cleaned:
        sequence = raw.strip()
        altered = 0
        if modality == "protein" and sequence.endswith("*"):  # the stop that translated genes end in
            sequence, altered = sequence[:-1], 1
        if not sequence:
            return Cleaned(drop=BLANK)
        if (place := alphabet.foreign(sequence)) is not None:
            hint = _hint(sequence[place], sequence, modality)
            return Cleaned(wrong=f"holds {sequence[place]!r} at position {place + 1}; {_may_hold(modality)}: {hint}")
        read = alphabet.read(sequence)
        if alphabet.unknown == "N":
            altered = read.count("N") - sequence.count("N") - sequence.count("n")
        return Cleaned(read, altered=altered)

    return clean


def _may_hold(modality: Modality) -> str:
    letters = ALPHABETS[modality].accepted
    return f"{modality} may hold {'the letters A to Z' if modality == 'protein' else letters}"


def _hint(letter: str, sequence: str, modality: Modality) -> str:
    if letter in "-.":
        return "take the gaps of an alignment out first"
    if letter.isspace():
        return "take the white space out first"
    if letter == "*":
        return "a stop inside the sequence, so split or remove the record"
    if modality in DOUBLE_STRANDED and sum(residue in "EFILPQefilpq" for residue in sequence[:1000]) > 0.05 * len(sequence[:1000]):
        return "this looks like protein, so mend the modality"
    return "mend or remove the record"


def _smiles_cleaner(canonical: bool) -> Cleaner:
    chem, log = load_extra("rdkit.Chem", "chemistry"), load_extra("rdkit.rdBase", "chemistry")
    alphabet = ALPHABETS["smiles"]

    def clean(raw: str) -> Cleaned:
        smiles = raw.strip()
        if not smiles:
            return Cleaned(drop=BLANK)
        if (place := alphabet.foreign(smiles)) is not None:
            return Cleaned(drop=f"{INVALID}: holds {smiles[place]!r} at position {place + 1}")
        with log.BlockLogs():
            molecule = chem.MolFromSmiles(smiles)
            if molecule is None:
                return Cleaned(drop=f"{INVALID}: {_fault(chem, smiles)}")
            written = chem.MolToSmiles(molecule) if canonical else smiles
        if (place := alphabet.foreign(written)) is not None:  # dative bonds, which RDKit writes as ->
            return Cleaned(drop=f"{INVALID}: as RDKit writes it, it holds {written[place]!r} at position {place + 1}")
        return Cleaned(written)

    return clean


def _fault(chem: Any, smiles: str) -> str:
    """Why RDKit does not take a SMILES: its own words where it has some."""
    molecule = chem.MolFromSmiles(smiles, sanitize=False)
    if molecule is None:
        return "not the syntax of SMILES"
    problems = chem.DetectChemistryProblems(molecule)
    return str(problems[0].Message()).strip() if problems else "RDKit cannot sanitise it"
