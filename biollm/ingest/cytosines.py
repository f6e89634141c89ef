"""Methylation written into the letters of a sequence."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biollm.ingest.config import CytosineLetters

_UNMETHYLATED = {"C": "T"}  # what bisulfite makes of them; a G tells of the other strand, which this read is not
_METHYLATED = {"C": "M", "G": "W"}


def write_cytosines(sequences: pa.Array, levels: list[NDArray[np.float32]], options: CytosineLetters) -> pa.Array:
    """Windows with their cytosines written as asked. sequences: (n,) strings; levels: of each track, (residues of all windows,), in the
    direction of each window, NaN = no value."""
    texts = sequences.to_pylist()
    flat = np.frombuffer("".join(texts).encode("ascii"), dtype=np.uint8).copy()
    for level in levels:
        if options.written == "methylation":
            chosen, letters = level >= options.threshold, _METHYLATED
        else:
            chosen, letters = level < options.threshold, _UNMETHYLATED  # neither where there is no value
        for letter, written in letters.items():
            flat[chosen & (flat == ord(letter))] = ord(written)
    whole, ends = flat.tobytes().decode("ascii"), np.cumsum([len(text) for text in texts])
    return pa.array([whole[end - len(text) : end] for end, text in zip(ends, texts, strict=True)], type=sequences.type)
