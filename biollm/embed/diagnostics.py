"""Do embeddings see methylation? Two looks at a fused model before and after it was adapted (after Xiao et al. 2026).

The length of a record's vector against its methylation, and how far the vector moves when the same sequence is read once as unmethylated
and once as methylated everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from biollm.embed.embedder import Embedder
from biollm.modeling.pooling import FloatArray
from biollm.modeling.tracks import RecordTracks, Track


def diagnose(models: Mapping[str, Embedder], texts: Sequence[str], tracks: Sequence[RecordTracks]) -> list[dict[str, Any]]:
    """For each channel that is a share, over the records that have values of it:

    levels: mean of each record; norms: of its vectors, by model; distances: cosine distance between the vectors of its two versions, all
    values 0 and all values 1, by model. All in the order of the records.
    """
    spec = next((embedder.fusion for embedder in models.values() if embedder.fusion is not None), None)
    if spec is None:
        return []
    found = []
    for name in (channel.name for channel in spec.channels if channel.is_share and channel.computed is None):
        chosen = [i for i, of_record in enumerate(tracks) if not np.isnan(of_record[name].level).all()]
        if not chosen:
            continue
        own = [tracks[i] for i in chosen]
        records = [texts[i] for i in chosen]
        norms, distances = {}, {}
        for model, embedder in models.items():
            norms[model] = _rounded(np.linalg.norm(embedder.embed_counted(records, own, show_progress=False).vectors, axis=1))
            versions = [
                embedder.embed_counted(records, [_set(of_record, name, level) for of_record in own], show_progress=False).vectors
                for level in (0.0, 1.0)
            ]
            distances[model] = _rounded(_cosine_distance(*versions))
        levels = _rounded(np.asarray([np.nanmean(of_record[name].level, dtype=np.float64) for of_record in own]))
        found.append({"channel": name, "levels": levels, "norms": norms, "distances": distances})
    return found


def _set(tracks: RecordTracks, channel: str, level: float) -> RecordTracks:
    """The same record with every value of a channel at one level."""
    track = tracks[channel]
    return {**tracks, channel: Track(np.where(np.isnan(track.level), track.level, np.float32(level)), track.coverage)}


def _cosine_distance(one: FloatArray, other: FloatArray) -> FloatArray:
    """(n,) 1 - cosine; exactly 0 for equal vectors."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    cosine = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.where((one == other).all(axis=1), 0.0, 1 - cosine).astype(np.float32)


def _rounded(values: np.ndarray[Any, Any]) -> list[float]:
    return [round(float(value), 6) for value in values]
