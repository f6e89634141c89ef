"""Pretrain: continued pretraining of the expanded model on the domain."""

from __future__ import annotations

from typing import Any

import torch

from biollm.core.files import write_json
from biollm.core.job import Job
from biollm.modeling.corpus import read_records
from biollm.modeling.encoding import Encoder
from biollm.modeling.loading import load_model, save_model, token_capacity
from biollm.pretrain.config import Config
from biollm.training.evaluate import score_masked, score_token_frequencies
from biollm.training.examples import MaskedPlan, check_lengths, encode_corpus, require_mask_token
from biollm.training.objectives import MaskedLanguageModel, cross_entropy
from biollm.training.run import load_trained, train


def run(job: Job[Config]) -> dict[str, Any]:
    config, source = job.config, job.input("expand")
    encoder = Encoder(source)
    require_mask_token(encoder)
    model = load_model(source, "AutoModelForMaskedLM")
    records = {split: read_records(job.input("ingest"), split) for split in ("train", "validation")}
    examples = {split: encode_corpus(frame, encoder, model.spec) for split, frame in records.items()}
    for split, frame in records.items():
        check_lengths(examples[split], frame["id"].to_list(), token_capacity(source, model.stock))

    module = MaskedLanguageModel(model)
    before = score_masked(module, examples["validation"], encoder, job.seed, "bits per base before")
    frequencies = score_token_frequencies(examples["train"], examples["validation"], encoder, job.seed)
    positions = config.steps * config.batch_size * config.gradient_accumulation
    plan = MaskedPlan(examples["train"], positions, job.seed, encoder, model.spec, config.mask_rate)
    trained = train(module, plan, encoder, cross_entropy, config, seed=job.seed, work=job.work, logs=job.logs, what="pretrain")

    # The trained module may hold bfloat16; what is saved and scored is a fresh float32 model with the master weights.
    model = load_model(source, "AutoModelForMaskedLM")
    module = MaskedLanguageModel(model)
    load_trained(module, trained.weights)
    model.stock.tie_weights()  # type: ignore[operator]
    after = score_masked(module, examples["validation"], encoder, job.seed, "bits per base after")
    save_model(model, job.out, source)
    per_record = sum(len(e.ids) for e in examples["train"]) / len(examples["train"])
    write_json(
        job.out / "history.json",
        [point | {"tokens": round(point["step"] / config.steps * positions * per_record)} for point in trained.history],
    )
    return {
        "objective": config.objective,
        "steps": config.steps,
        "records_seen": positions,
        "tokens": round(positions * per_record),
        "epochs": positions / len(examples["train"]),
        "bits_per_base": {
            "before": before.bits_per_base,
            "after": after.bits_per_base,
            "token_frequencies": frequencies.bits_per_base,
        },
        "nats_per_token": {"before": before.nats_per_token, "after": after.nats_per_token},
        "precision": trained.precision,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "fused_channels": model.spec.channel_names if model.spec else [],
    }
