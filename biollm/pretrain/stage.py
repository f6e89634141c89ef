"""Pretrain: continued pretraining of the expanded model on the domain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from biollm.core.files import write_json
from biollm.core.job import Job
from biollm.core.progress import say
from biollm.core.seeding import derive_seed
from biollm.modeling.loading import save_model
from biollm.modeling.vocabulary import DomainVocabulary
from biollm.pretrain.config import Config
from biollm.pretrain.task import Materials, make_module, make_plan, read_materials
from biollm.training.language import LanguageModel, LanguageScore, score_language, score_token_frequencies
from biollm.training.run import RunSettings, Trained, load_trained, train
from biollm.training.task import TRAINED, WEIGHTS, Recipe

_FUTURE_HEADS = "future_heads.safetensors"  # they only help to train; kept for who wants to decode several tokens at once


def run(job: Job[Config]) -> dict[str, Any]:
    config, source = job.config, job.input("expand")
    general = [file for name in config.resources() for file in job.files(name)]
    materials = read_materials(job.input("ingest"), source, job.facts_of("ingest")["modality"], general, config)
    module = make_module(source, materials.encoder, config)
    before = _scores(module, materials, job.seed, "before")
    frequencies = score_token_frequencies(module.objective, materials.domain, materials.held_out["domain"], job.seed)
    why_padded = module.why_padded
    if why_padded is not None:
        say(f"pretrain: this model's batches are padded instead of packed: {why_padded}")
    del module  # the processes of the run have their own

    trained = _train(job, materials, general)
    # The trained module may hold bfloat16; what is saved and scored is a fresh float32 model with the master weights.
    module = make_module(source, materials.encoder, config)
    load_trained(module, trained.weights)
    module.model.stock.tie_weights()  # type: ignore[operator]
    after = _scores(module, materials, job.seed, "after")
    save_model(module.model, job.out, source)
    if module.future is not None:
        save_file({name: p.detach().contiguous() for name, p in module.future.state_dict().items()}, str(job.out / _FUTURE_HEADS))

    plan = make_plan(module, materials, config, config.steps, job.seed)
    tokens_per_step = config.batch_size * config.row_tokens * plan.fill
    write_json(job.out / "history.json", [point | {"tokens": round(point["step"] * tokens_per_step)} for point in trained.history])
    parts = {"domain": "bits_per_base", "general": "bits_per_byte_general"}
    return {
        "objective": module.objective.name,
        "steps": config.steps,
        "records_seen": config.positions,
        "tokens": round(config.steps * tokens_per_step),
        "epochs": config.positions / plan.rows_per_epoch,
        **{
            name: {"before": before[part].bits_per_base, "after": after[part].bits_per_base}
            | ({"token_frequencies": frequencies.bits_per_base} if part == "domain" else {})
            for part, name in parts.items()
            if part in before
        },
        "nats_per_token": {part: {"before": before[part].nats_per_token, "after": after[part].nats_per_token} for part in before},
        "packing": {"row_tokens": config.row_tokens, "fill": plan.fill, "why_padded": why_padded},
        "general": _general_facts(materials, config),
        "precision": trained.precision,
        "threads": trained.threads,
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "fused_channels": module.model.spec.channel_names if module.model.spec else [],
    }


def _train(job: Job[Config], materials: Materials, general: list[Path]) -> Trained:
    """All phases: first the new rows alone, if the recipe says so, then everything."""
    config = job.config
    arguments: dict[str, Any] = {
        "corpus": str(job.input("ingest").absolute()),
        "model": str(job.input("expand").absolute()),
        "modality": job.facts_of("ingest")["modality"],
        "general": [str(file.absolute()) for file in general],
        "config": config.model_dump(),
        "seed": job.seed,
        "weights": None,
        "new_rows_from": None,
    }
    if config.new_rows_steps:
        vocabulary = DomainVocabulary.load(job.input("expand"))
        assert vocabulary is not None, "the recipe was checked for a merge"
        rows = arguments | {"new_rows_from": vocabulary.base_vocab_size, "seed": derive_seed(job.seed, "new rows")}
        phase = config.model_copy(update={"steps": config.new_rows_steps, "layer_decay": 1.0, "weight_decay": 0.0})
        settings = RunSettings(rows["seed"], "pretrain, new rows")
        work, logs = job.work / "new_rows", job.logs / "new_rows"
        first = train(Recipe("biollm.pretrain.task:build", rows), phase, settings, work=work, logs=logs)
        arguments["weights"] = str((work / TRAINED / WEIGHTS).absolute())
        say(f"pretrain: new rows trained for {first.step} steps")
    settings = RunSettings(job.seed, "pretrain")
    return train(Recipe("biollm.pretrain.task:build", arguments), config, settings, work=job.work / "all", logs=job.logs)


def _scores(module: LanguageModel, materials: Materials, seed: int, when: str) -> dict[str, LanguageScore]:
    """Losses on held-out documents of the domain, and of general text if the recipe has any."""
    scores = {"domain": score_language(module, materials.held_out["domain"], seed, f"held-out loss {when}")}
    if "general" in materials.held_out:
        scores["general"] = score_language(module, materials.held_out["general"], seed, f"loss on general text {when}")
    return scores


def _general_facts(materials: Materials, config: Config) -> dict[str, Any] | None:
    if config.general is None:
        return None
    return {"replay": config.general.replay, "documents": len(materials.general), "held_out": len(materials.held_out["general"])}
