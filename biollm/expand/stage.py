"""Expand: base model + merged tokenizer into a model folder, with fusion if the recipe asks for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from biollm.core.errors import DataError
from biollm.core.job import Job
from biollm.core.seeding import derive_seed, generator
from biollm.expand.config import Config, FusionConfig
from biollm.modeling.corpus import read_records, read_tracks
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import FusedModel, FusionSpec
from biollm.modeling.inits import INITS, InitName
from biollm.modeling.loading import load_stock, save_model
from biollm.modeling.surgery import resize, tables_of
from biollm.modeling.tracks import TrackConfig, channel_statistics
from biollm.modeling.vocabulary import load_tokenizer
from biollm.training.evaluate import MaskedScore, score_masked
from biollm.training.examples import Example, collate, encode_corpus
from biollm.training.objectives import MaskedLanguageModel
from tokenizers import Tokenizer


def run(job: Job[Config]) -> dict[str, Any]:
    config, merge_folder = job.config, job.input("merge")
    encoder = Encoder(merge_folder)
    base_tokenizer = load_tokenizer(job.base_folder())
    stock = _load_base(job)
    base_rows = tables_of(stock).input.detach().clone()
    pieces = _base_pieces(encoder, base_tokenizer)
    validation = read_records(job.input("ingest"), "validation")
    held_out = validation.gather_every(max(1, validation.height // config.held_out_records)).head(config.held_out_records)
    examples = encode_corpus(held_out, encoder, None)

    def new_rows(init: InitName) -> Tensor:
        rows = INITS[init](base_rows.numpy(), pieces, generator(job.seed, "expand", init))
        return torch.from_numpy(rows)

    resize(stock, encoder.tokenizer.get_vocab_size(), new_rows(config.init))
    scores: dict[str, MaskedScore] = {}
    others = [init for init in config.compare_inits if init != config.init]
    for init in (*others, config.init):  # the chosen one last: it stays in the model
        _overwrite_new_rows(stock, len(base_rows), new_rows(init))
        scores[init] = score_masked(MaskedLanguageModel(FusedModel(stock)), examples, encoder, job.seed, f"held-out loss, init {init}")

    model = FusedModel(stock, _fusion_spec(job, config.fusion, base_rows.shape[1]) if config.fusion else None)
    fusion_facts = None
    if config.fusion is not None and model.spec is not None:
        fusion_facts = {
            "operator": config.fusion.operator,
            "channels": model.spec.channel_names,
            "step0_max_difference": _step0_difference(model, encode_corpus(held_out.head(16), encoder, model.spec), encoder),
        }
    save_model(model, job.out, merge_folder)
    _check_saved(job.out, base_rows, new_rows(config.init))
    return {
        "init": config.init,
        "held_out_records": held_out.height,
        "held_out_loss_nats": {name: score.nats_per_token for name, score in scores.items()},
        "held_out_bits_per_base": {name: score.bits_per_base for name, score in scores.items()},
        "old_rows": len(base_rows),
        "new_rows": len(pieces),
        "old_rows_bit_equal": True,  # _check_saved raises otherwise
        "parameters_added": len(pieces) * base_rows.shape[1],
        "fusion": fusion_facts,
    }


def _load_base(job: Job[Config]) -> nn.Module:
    """The base as a masked-language model. A sentence encoder has no such head: its missing parts are drawn from our seed."""
    torch.manual_seed(derive_seed(job.seed, "expand", "head"))
    return load_stock(job.base_folder(), "AutoModelForMaskedLM").eval()


def _base_pieces(encoder: Encoder, base: Tokenizer) -> list[list[int]]:
    """For each new token, the base tokens that its text had."""
    vocabulary = encoder.vocabulary
    assert vocabulary is not None, "a merge artifact has a domain vocabulary"
    readable = str.maketrans({letter: residue for residue, letter in vocabulary.private_letters.items()})
    first, last = vocabulary.base_vocab_size, vocabulary.base_vocab_size + vocabulary.new_tokens
    texts = [
        str(encoder.tokenizer.id_to_token(i)).removeprefix(vocabulary.continuing_prefix).translate(readable) for i in range(first, last)
    ]
    return [e.ids for e in base.encode_batch(texts, add_special_tokens=False)]


def _overwrite_new_rows(stock: nn.Module, first_new: int, rows: Tensor) -> None:
    tables = tables_of(stock)
    with torch.no_grad():
        for table in (tables.input, tables.output):
            if table is not None:
                table[first_new:] = rows


def _fusion_spec(job: Job[Config], fusion: FusionConfig, hidden_size: int) -> FusionSpec:
    tracks = {t["name"]: TrackConfig.model_validate(t) for t in job.facts_of("ingest")["tracks"]}
    train = read_tracks(read_records(job.input("ingest"), "train"), fusion.channels)
    statistics = [channel_statistics([record[i] for record in train]) for i in range(len(fusion.channels))]
    return FusionSpec(
        operator=fusion.operator,
        channels=[tracks[name] for name in fusion.channels],
        mean=[mean for mean, _ in statistics],
        scale=[scale for _, scale in statistics],
        hidden_size=hidden_size,
    )


def _step0_difference(model: FusedModel, examples: list[Example], encoder: Encoder) -> float:
    """The largest difference that the tracks make before training. Anything but 0.0 would mean that fusion changed the base."""
    batch = collate(examples, encoder)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        fused, plain = model(features=batch["features"], **inputs).logits, model(**inputs).logits
    difference = float((fused - plain).abs().max())
    if difference != 0.0 or not math.isfinite(difference):
        raise DataError(f"expand: fusion changes the model's output by {difference} before any training; please report this base model")
    return difference


def _check_saved(folder: Path, base_rows: Tensor, new_rows: Tensor) -> None:
    """Open what was written again: old rows bit-equal, new rows finite and those of the chosen initialiser."""
    tables = tables_of(load_stock(folder, "AutoModelForMaskedLM"))
    table = tables.input.detach()
    assert torch.equal(table[len(base_rows) :], new_rows), "the saved rows are those of another initialiser"
    if not torch.equal(table[: len(base_rows)], base_rows):
        raise DataError("expand: rows of base tokens changed in the saved model; nothing was written. Please report this base model")
    if not torch.isfinite(table).all():
        raise DataError("expand: new rows of the saved model are not finite; try another expand.init")
