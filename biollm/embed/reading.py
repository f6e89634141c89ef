"""What a caller gives, checked: records, their tokens, their tracks, and the other strand. Legend: L residues, T tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from biollm.core.alphabets import ALPHABETS, DOUBLE_STRANDED, Modality, reverse_complement, reverse_complement_rna
from biollm.core.errors import ConfigError, DataError
from biollm.corpus.columns import TRACK
from biollm.embed.settings import InputKind, TracksMode
from biollm.embed.windows import Tokens, spans_of_residues
from biollm.modeling.channels import FusionSpec
from biollm.modeling.encoding import Encoded, Encoder
from biollm.modeling.pooling import FloatArray
from biollm.modeling.tracks import RecordTracks, Track, as_numbers, reverse_tracks

# What one record's tracks may be given as; None: it has none.
GivenTracks = Mapping[str, Track | ArrayLike] | None


def check_list(texts: Any, names: Sequence[str] | None) -> list[str]:
    """The names of the records. Raises DataError for one string, empty strings, or another number of names."""
    if isinstance(texts, str):
        raise DataError("embed takes a list of strings, but was given one string; write [text], or Path(name) for a file")
    labels = list(names) if names is not None else [f"number {i}" for i in range(len(texts))]
    if len(labels) != len(texts):
        raise DataError(f"embed was given {len(texts)} texts, but {len(labels)} names; they must agree")
    for name, text in zip(labels, texts, strict=True):
        if not isinstance(text, str):
            raise DataError(f"text {name} is {type(text).__name__}, not a string; give its letters")
        if not text.strip():
            raise DataError(f"text {name} is empty; remove it or give its content")
    return labels


def read_tokens(
    encoder: Encoder, kind: InputKind, texts: Sequence[str], names: Sequence[str], *, spans: bool
) -> tuple[list[str], list[Tokens]]:
    """Records as they are read, sequences cleaned (see `clean_sequence`), and their tokens. spans: whether where tokens of text stand is
    wanted, which takes time; else they are (0, 0).

    With kind 'auto' a record that is one run of residues, in either case, is a sequence, and any other is text.
    Raises DataError naming a record with a foreign letter, or without a token.
    """
    # decided for each record alone: what stands beside it must not change how it is read
    is_fast = [encoder.domain is not None and (kind == "sequence" or (kind == "auto" and encoder.is_sequence(text))) for text in texts]
    sequences = [i for i, fast in enumerate(is_fast) if fast]
    others = [i for i, fast in enumerate(is_fast) if not fast]
    read = list(texts)
    for i in sequences:
        assert encoder.domain is not None
        read[i] = clean_sequence(texts[i], encoder.domain.modality, names[i])
    found = _read_sequences(encoder, [read[i] for i in sequences], [names[i] for i in sequences])
    found += _read_texts(encoder, [texts[i] for i in others], spans)
    found = [found[place] for place in np.argsort(sequences + others)]
    if empty := [name for name, tokens in zip(names, found, strict=True) if not len(tokens.ids)]:
        raise DataError(f"text {empty[0]} has no token for this tokenizer; remove it")
    return read, found


def clean_sequence(raw: str, modality: Modality, name: str) -> str:
    """A sequence in the letters of its modality, as ingest writes it: case folded up where it means nothing, T and U as the modality has
    them, N for IUPAC codes of several bases, without the stop (*) that a translated gene ends in.

    Raises DataError naming the record, the letter and its position (from 1) for a letter that the modality does not have.
    """
    alphabet = ALPHABETS[modality]
    sequence = raw.removesuffix("*") if modality == "protein" else raw
    if (place := alphabet.foreign(sequence)) is None:
        return alphabet.read(sequence)
    remedy = "take the gaps out" if raw[place] in "-." else "mend or remove the record, or read it as text with input='text'"
    raise DataError(
        f"sequence {name} holds {raw[place]!r} at position {place + 1}; {modality} sequences hold {alphabet.accepted}"
        f"{' in either case' if alphabet.folds_case else ''}; {remedy}"
    )


def _read_sequences(encoder: Encoder, sequences: Sequence[str], names: Sequence[str]) -> list[Tokens]:
    return [_of_sequence(encoded) for encoded in encoder.encode_sequences(sequences, names)] if sequences else []


def _read_texts(encoder: Encoder, texts: Sequence[str], spans: bool) -> list[Tokens]:
    if spans:
        return [_with_offsets(encoder, text) for text in texts]
    return [_of_text(encoded, text) for encoded, text in zip(encoder.encode_text(texts), texts, strict=True)]


def _of_sequence(encoded: Encoded) -> Tokens:
    return Tokens(encoded.ids, encoded.residues, spans_of_residues(encoded.residues))


def _of_text(encoded: Encoded, text: str) -> Tokens:
    """A run of residues that stands alone is a sequence here too; of anything else, residues are not told apart from letters."""
    if int(encoded.residues.sum()) == len(text):
        return _of_sequence(encoded)
    return Tokens(encoded.ids, np.zeros_like(encoded.ids), np.zeros((len(encoded.ids), 2), dtype=np.int64))


def _with_offsets(encoder: Encoder, text: str) -> Tokens:
    (encoded,) = encoder.encode_text([text])
    plain = _of_text(encoded, text)
    if plain.is_sequence:
        return plain
    offsets = encoder.tokenizer.encode(text, add_special_tokens=False).offsets
    spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    # The tokenizer counts a unit's mark to the letter before it; the end is right.
    starts = np.where(encoded.residues > 0, spans[:, 1] - encoded.residues, spans[:, 0])
    return Tokens(plain.ids, plain.residues, np.stack([starts, spans[:, 1]], axis=1))


def check_tracks(
    spec: FusionSpec | None, mode: TracksMode, tracks: Sequence[GivenTracks] | None, names: Sequence[str]
) -> list[RecordTracks | None] | None:
    """The tracks of each record as the model reads them; None where it reads none at all.

    Raises DataError where tracks are given that the model cannot read, and where it needs measured ones that are not given.
    """
    if tracks is not None:
        if spec is None:
            raise DataError("this model has no fusion, but was given tracks; leave them out, or give a model with fusion.json")
        if mode == "off":
            raise DataError("tracks were given to an Embedder with tracks='off'; leave them out, or take tracks='auto'")
        if len(tracks) != len(names):
            raise DataError(f"embed was given {len(names)} texts, but tracks of {len(tracks)}; give one mapping (or None) for each text")
        return [_as_tracks(given, name) for given, name in zip(tracks, names, strict=True)]
    if spec is None or mode == "off":
        return None
    if spec.needs_measured:
        measured = ", ".join(spec.measured_names)
        raise DataError(
            f"this model reads measured tracks ({measured}), but was given none; "
            f"give tracks=[{{channel: values}}, …] (in a table: columns {TRACK}<channel>), "
            "or withhold them with tracks='off' (command line: --tracks off)"
        )
    return [{} for _ in names]


def _as_tracks(given: GivenTracks, name: str) -> RecordTracks | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise DataError(f"record {name}: tracks are {type(given).__name__}; expected a mapping from channel to values, or None")
    return {c: v if isinstance(v, Track) else Track(as_numbers(v, f"record {name}: track '{c}'")) for c, v in given.items()}


def track_features(spec: FusionSpec, tokens: Tokens, text: str, tracks: RecordTracks | None, name: str) -> FloatArray:
    """(T, F) of one record; zero for text, whose tokens stand for no residues. Raises DataError if it was given tracks all the same."""
    if int(tokens.residues.sum()) == len(text):
        return spec.features(text.upper(), tracks, tokens.residues, name)
    if tracks:
        raise DataError(f"record {name}: has tracks, but is read as text, whose tokens stand for no residues; use input='sequence'")
    return np.zeros((len(tokens.ids), spec.width), dtype=np.float32)


def check_strands(encoder: Encoder) -> None:
    """Raises ConfigError if the model reads nothing that has two strands."""
    if encoder.domain is None or encoder.domain.modality not in DOUBLE_STRANDED:
        what = f"reads {encoder.domain.modality} sequences" if encoder.domain else "has no vocabulary of sequences"
        raise ConfigError(f"strands='both' is for DNA and RNA, but this model {what}; use strands='forward'")


def other_strand(encoder: Encoder, texts: Sequence[str], names: Sequence[str], tokens: Sequence[Tokens]) -> list[str]:
    """Reverse complements. Raises DataError naming a record that was read as text."""
    if text := [name for name, found in zip(names, tokens, strict=True) if not found.is_sequence]:
        raise DataError(f"record {text[0]} is read as text, which has no other strand; use input='sequence', or strands='forward'")
    assert encoder.domain is not None
    if encoder.domain.modality == "rna":
        return [reverse_complement_rna(text.upper().replace("T", "U")) for text in texts]
    return [reverse_complement(text.upper()) for text in texts]


def turned(tracks: Sequence[RecordTracks | None] | None) -> list[RecordTracks | None] | None:
    """The tracks of the other strand."""
    return None if tracks is None else [None if of_record is None else reverse_tracks(of_record) for of_record in tracks]
