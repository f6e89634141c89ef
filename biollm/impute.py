"""`biollm impute`: a fused model fills in values of its tracks, and is held against what needs no model.

Values that are missing are predicted from all that there are. How good such predictions are is measured on values that there are: they
are hidden token by token and channel by channel, on records that nothing was fitted on. The model predicts from the sequence, the other
channels and the values around; beside it stand the channel's mean, the mean of the record, and the line between neighbours.

Legend: L residues, T tokens, C channels, K folds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from biollm.core.errors import ConfigError, DataError, storage_error
from biollm.core.files import sync, write_json
from biollm.core.progress import progress
from biollm.core.seeding import generator
from biollm.modeling.channels import FEATURES_PER_CHANNEL, Channel, FusionSpec
from biollm.modeling.corpus import read_records
from biollm.modeling.encoding import Encoder, by_length, pad, pad_features
from biollm.modeling.fusion import FusedModel
from biollm.modeling.loading import load_config, load_model, token_capacity
from biollm.modeling.tracks import FloatArray, TokenValues, Track, over_tokens
from biollm.stages import BY_NAME, Run
from biollm.training.examples import Example, check_lengths, encode_corpus, open_tracks

FILE, FACTS = "imputed.parquet", "impute.json"
_TOKENS_PER_BATCH = 4096
_MISSING = -1  # the pass in which tokens without a value are predicted: nothing is hidden
_BASELINES = ("channel mean", "record mean", "neighbours")


@dataclass(frozen=True)
class Settings:
    """split: whose records are imputed; folds: each value is hidden in one of so many passes; min_coverage: values with fewer observations
    are hidden and predicted like all, but not scored."""

    split: str = "test"
    folds: int = 5
    min_coverage: int = 4


def impute(run: Run, settings: Settings) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Impute the records of a split by the recipe's adapted model. Returns (a row for each token and channel, the scores).

    Tokens that have a value are predicted from the others, those that have none from all. A token can have a value of a measured channel if
    it stands for residues, of a channel of one strand if one of them is that strand's C; what follows from the sequence is never missing.
    Writes impute/imputed.parquet and impute/impute.json below the results. Raises ConfigError if the model does not impute, DataError if
    the split has no record.
    """
    if BY_NAME["pretrain"] not in run.stages:
        raise ConfigError(f"{run.path}: has no section 'pretrain', so there is no model to impute with; add it")
    state = {stage.name: artifact for stage, artifact in run.state(run.needed_for(BY_NAME["pretrain"]))}
    artifact, corpus = state.get("pretrain"), state.get("ingest")
    if artifact is None or corpus is None:
        raise ConfigError(f"{run.results}: the model is missing or not up to date with {run.path}; make it first: biollm run {run.path}")
    model = load_model(artifact.folder)
    spec = model.spec
    if spec is None or not spec.imputes:
        raise ConfigError(
            f"{run.path}: the model was not trained to predict track values; set expand.fusion and pretrain.tracks.weight (for example 1)"
        )
    encoder = Encoder(artifact.folder, corpus.facts["modality"])
    records = read_records(corpus.folder, settings.split)
    if not records.height:
        raise DataError(
            f"{corpus.folder.name}: the split '{settings.split}' has no record; "
            "name another of train, validation, test, or change ingest.split"
        )
    examples = encode_corpus(records, encoder, spec, open_tracks(corpus.folder, spec))
    check_lengths(examples, token_capacity(artifact.folder, load_config(artifact.folder)))
    fold_of = [_folds(example, spec, settings.folds, run.recipe.seed) for example in examples]
    predicted = _predict(model, encoder, examples, fold_of, settings.folds)
    rows = pl.concat([_rows(e, spec, folds, p) for e, folds, p in zip(examples, fold_of, predicted, strict=True)])
    scores = _scores(examples, spec, fold_of, predicted, settings)
    out = run.results / "impute"
    staged = out / f".{FILE}.tmp"
    try:
        out.mkdir(parents=True, exist_ok=True)
        rows.write_parquet(staged)
        sync(staged)
        staged.replace(out / FILE)
        write_json(out / FACTS, {"model": artifact.digest, "settings": vars(settings), "scores": scores})
    except OSError as error:
        raise storage_error(error, out) or error from None
    return rows, scores


def render(scores: Sequence[dict[str, Any]]) -> str:
    """The scores as a table for a terminal."""
    table = Table(title="Hidden values predicted: Pearson's r, mean absolute error", title_justify="left")
    for column in ("channel", "values", "by", "r", "MAE"):
        table.add_column(column, justify="left" if column in ("channel", "by") else "right")
    for score in scores:
        r = "–" if score["r"] is None else f"{score['r']:.3f}"
        mae = "–" if score["mae"] is None else f"{score['mae']:.4f}"
        table.add_row(score["channel"], str(score["values"]), score["by"], r, mae)
    console = Console(width=90)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


def _folds(example: Example, spec: FusionSpec, folds: int, seed: int) -> NDArray[np.int64]:
    """(T, C), in which pass a token's channel is predicted: that in which its values are hidden, or _MISSING for one without."""
    drawn = generator(seed, "impute", example.name).integers(folds, size=(len(example.ids), len(spec.channels)))
    return np.where(_values(example, spec).sites.T > 0, drawn, _MISSING)


def _values(example: Example, spec: FusionSpec) -> TokenValues:
    values = spec.over_tokens(example.sequence, example.tracks, example.track_residues, example.name)
    assert values is not None, "records of a corpus have tracks"
    return values


def _predict(
    model: FusedModel, encoder: Encoder, examples: Sequence[Example], fold_of: Sequence[NDArray[np.int64]], folds: int
) -> list[FloatArray]:
    """(T, C) of each record, in the channels' own units; each value predicted in its pass, what is missing with nothing hidden."""
    assert model.spec is not None
    found = [np.zeros(fold.shape, dtype=np.float32) for fold in fold_of]
    batches = list(by_length([len(e.ids) for e in examples], _TOKENS_PER_BATCH))
    for number, fold in enumerate([_MISSING, *range(folds)], start=1):
        for batch in progress(batches, f"impute, pass {number} of {folds + 1}", unit="batch"):
            hidden = [fold_of[i] == fold for i in batch]  # of _MISSING there is nothing to hide
            for i, mask, logits in zip(batch, hidden, _forward(model, encoder, [examples[i] for i in batch], hidden), strict=True):
                found[i][mask] = _as_values(logits, model.spec)[mask]
    return found


def _forward(model: FusedModel, encoder: Encoder, examples: Sequence[Example], hidden: Sequence[NDArray[np.bool_]]) -> Iterator[FloatArray]:
    ids, mask = pad([example.ids for example in examples], encoder.pad_id or 0)
    rows = []
    for example, taken in zip(examples, hidden, strict=True):
        made = example.features
        assert made is not None, "documents of a fused model"
        features = made.reshape(*taken.shape, FEATURES_PER_CHANNEL)
        features[taken] = 0
        rows.append(features.reshape(len(taken), -1))
    device = next(model.parameters()).device
    inputs = {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).to(device)}
    if model.stock.config.is_encoder_decoder:  # type: ignore[union-attr]
        inputs["decoder_input_ids"] = torch.zeros(len(ids), 1, dtype=torch.long, device=device)
    padded = torch.from_numpy(pad_features(rows, ids.shape[1])).to(device)
    with torch.inference_mode():
        output = model(features=padded, **inputs)
        read = output.encoder_last_hidden_state if "decoder_input_ids" in inputs else output.last_hidden_state
        assert model.operator is not None
        predicted = model.operator.predict(read, padded)[1].cpu().numpy()
    for row, example in zip(predicted, examples, strict=True):
        yield row[: len(example.ids)]


def _as_values(predicted: FloatArray, spec: FusionSpec) -> FloatArray:
    columns = [
        1 / (1 + np.exp(-predicted[:, i])) if channel.is_share else predicted[:, i] * channel.scale + channel.mean
        for i, channel in enumerate(spec.channels)
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _rows(example: Example, spec: FusionSpec, folds: NDArray[np.int64], predicted: FloatArray) -> pl.DataFrame:
    """One row for each token and channel that has a value or could have one; start and end of the token in its record."""
    values = _values(example, spec)
    ends = np.cumsum(example.track_residues)
    starts = ends - example.track_residues
    parts = []
    for i, channel in enumerate(spec.channels):
        has = values.sites[i] > 0
        kept = np.flatnonzero(has | _could_have_values(example, channel))
        columns = {
            "id": np.repeat(example.name, len(kept)),
            "channel": np.repeat(channel.name, len(kept)),
            "start_0based": starts[kept],
            "end": ends[kept],
            "sites": values.sites[i, kept].astype(np.int64),
            "coverage": values.coverage[i, kept],
            "measured": values.level[i, kept],
            "predicted": predicted[kept, i],
            "pass": folds[kept, i],
        }
        schema = {"id": pl.String, "channel": pl.String}
        measured = pl.when(pl.col("sites") > 0).then(pl.col("measured", "pass"))  # else null
        parts.append(pl.DataFrame(columns, schema_overrides=schema).with_columns(measured))
    return pl.concat(parts)


def _could_have_values(example: Example, channel: Channel) -> NDArray[np.bool_]:
    """(T,), whether a token stands for a residue that may be measured."""
    if channel.computed is not None:
        return np.zeros(len(example.ids), dtype=bool)
    everywhere = Track(np.zeros(len(example.sequence), dtype=np.float32))
    found: NDArray[np.bool_] = over_tokens([channel.of(everywhere, example.sequence)], example.track_residues).sites[0] > 0
    return found


# --- scores --------------------------------------------------------------------------------------------------------------------


def _scores(
    examples: Sequence[Example],
    spec: FusionSpec,
    fold_of: Sequence[NDArray[np.int64]],
    predicted: Sequence[FloatArray],
    settings: Settings,
) -> list[dict[str, Any]]:
    """Each channel's values, residue by residue, against the model and the baselines."""
    found = []
    for i, channel in enumerate(spec.channels):
        if channel.computed is not None:
            continue
        parts = [_of_record(e, channel, f[:, i], p[:, i], settings) for e, f, p in zip(examples, fold_of, predicted, strict=True)]
        truth, *by = (np.concatenate(column) for column in zip(*parts, strict=True))
        for name, values in zip(("model", *_BASELINES), by, strict=True):
            found.append({"channel": channel.name, "values": len(truth), "by": name, **_agreement(truth, values)})
    return found


def _of_record(
    example: Example, channel: Channel, folds: NDArray[np.int64], predicted: FloatArray, settings: Settings
) -> tuple[NDArray[np.float64], ...]:
    """Truth, and the predictions of the model and of each baseline, of the values of a record that are scored."""
    assert example.tracks is not None
    track = channel.of(example.tracks[channel.name], example.sequence)
    fold, model = (np.repeat(column, example.track_residues) for column in (folds, predicted))
    has = ~np.isnan(track.level)
    scored = has if track.coverage is None else has & (np.nan_to_num(track.coverage) >= settings.min_coverage)
    mean, line = np.full(len(has), channel.mean), np.full(len(has), channel.mean)
    for number in np.unique(fold[scored]):
        asked, seen = scored & (fold == number), np.flatnonzero(has & (fold != number))
        if len(seen):
            mean[asked] = track.level[seen].mean(dtype=np.float64)
            line[asked] = np.interp(np.flatnonzero(asked), seen, track.level[seen])
    constant = np.full(int(scored.sum()), channel.mean)
    return track.level[scored].astype(np.float64), model[scored].astype(np.float64), constant, mean[scored], line[scored]


def _agreement(truth: NDArray[np.float64], values: NDArray[np.float64]) -> dict[str, float | None]:
    """Pearson's r (None where one side is constant) and the mean absolute error."""
    varies = len(truth) > 1 and np.ptp(truth) > 0 and np.ptp(values) > 0
    r = float(np.corrcoef(truth, values)[0, 1]) if varies else None
    return {"r": r, "mae": float(np.abs(truth - values).mean()) if len(truth) else None}
