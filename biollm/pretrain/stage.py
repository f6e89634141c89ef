"""Pretrain: continued pretraining of the expanded model on the domain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.torch import save_file

from biollm.core.bootstrap import ratio_interval
from biollm.core.files import make_once, write_json
from biollm.core.job import Job
from biollm.core.model_card import write_model_card
from biollm.core.progress import say
from biollm.core.seeding import derive_seed, generator
from biollm.corpus.columns import RECORDS
from biollm.modeling.channels import OTHER_OPERATORS, OperatorName
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import FusedModel
from biollm.modeling.loading import load_config, load_model, save_model
from biollm.modeling.vocabulary import DomainVocabulary
from biollm.pretrain.config import Config
from biollm.pretrain.task import Materials, make_module, make_plan, read_materials
from biollm.training.config import USUAL_ROW_TOKENS
from biollm.training.general import groups_of
from biollm.training.language import LanguageModel, LanguageScore, read_scores, score_language, score_token_frequencies, write_scores
from biollm.training.objectives import AUTO_CLASSES, architecture_of
from biollm.training.run import RunSettings, Trained, load_trained, train, with_hostfile
from biollm.training.task import TRAINED, WEIGHTS, Recipe
from biollm.training.trainer import told_out_of_memory

_DOCUMENTS = "documents"
_FREQUENCIES = "token_frequencies"
_MUCH_ROOM = 0.95  # rows less full than this are worth a word
_FUTURE_HEADS = "future_heads.safetensors"  # they only help to train; kept for who wants to decode several tokens at once


def run(job: Job[Config]) -> dict[str, Any]:
    job = replace(job, config=with_hostfile(job.config, job.recipe_folder))
    config, source = job.config, job.input("expand")
    general = [file for name in config.resources() for file in job.files(name)]
    documents = job.work / _DOCUMENTS
    materials = read_materials(job.input("ingest"), source, job.facts_of("ingest")["modality"], general, config, documents)
    with told_out_of_memory("pretrain, scores before"):
        module = make_module(source, materials.encoder, config)
        before = read_scores(make_once(job.work / "before.json", lambda file: _score_start(file, module, materials, job.seed)))
    why_padded = module.why_padded
    if why_padded is not None:
        say(f"pretrain: this model's batches are padded instead of packed: {why_padded}")
    plan = make_plan(module, materials.domain, materials.general, config, config.steps, job.seed)
    if config.row_tokens is None and plan.row_tokens != USUAL_ROW_TOKENS:
        say(f"pretrain: rows of {plan.row_tokens} tokens, which the documents fill ({plan.fill:.0%})")
    if plan.fill < _MUCH_ROOM and (fuller := plan.best_row_tokens(plan.row_tokens)) != plan.row_tokens:
        say(f"pretrain: rows of {plan.row_tokens} tokens are {plan.fill:.0%} full; with row_tokens: {fuller} they would be fuller")
    del module  # the processes of the run have their own

    trained, module = _train(job, source, materials.encoder, job.work, job.logs)
    with told_out_of_memory("pretrain, scores after"):
        after = _scores(module, materials, job.seed, "after")
    save_model(module.model, job.out, source)
    operators = {operator: _with_operator(job, operator, materials) for operator in config.compare_operators}
    if module.future is not None:
        save_file({name: p.detach().contiguous() for name, p in module.future.state_dict().items()}, str(job.out / _FUTURE_HEADS))

    tokens_per_step = config.batch_size * plan.row_tokens * plan.fill
    write_json(job.out / "history.json", [point | {"tokens": round(point["step"] * tokens_per_step)} for point in trained.history])
    parts = {"domain": "bits_per_base", "general": "bits_per_byte_general"}
    groups = _groups(job, materials)
    facts = {
        "objective": module.objective.name,
        "steps": config.steps,
        "rows_seen": config.positions,
        "tokens": round(config.steps * tokens_per_step),
        "epochs": config.positions / plan.rows_per_epoch,
        **{
            name: {"before": before[part].bits_per_base, "after": after[part].bits_per_base}
            | {"change": _change(before[part], after[part], groups[part], job.seed)}
            | ({"token_frequencies": before[_FREQUENCIES].bits_per_base} if part == "domain" else {})
            for part, name in parts.items()
            if part in before
        },
        "nats_per_token": {part: {"before": before[part].nats_per_token, "after": after[part].nats_per_token} for part in after},
        "packing": {"row_tokens": plan.row_tokens, "fill": plan.fill, "why_padded": why_padded},
        "general": _general_facts(materials, config),
        "precision": trained.precision,
        "threads": trained.threads,
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "fused_channels": module.model.spec.channel_names if module.model.spec else [],
        "operators": operators,
    }
    for folder in (job.out, *(job.out / OTHER_OPERATORS / operator for operator in operators)):
        write_model_card(folder, "pretrain", job, facts, made_from=source)
    return facts


def _with_operator(job: Job[Config], operator: OperatorName, materials: Materials) -> dict[str, float]:
    """Adapt the same model with another fusion operator, into operators/<operator>; how it then reads the domain."""
    say(f"pretrain: the same model, its tracks fused by {operator}")
    source = job.work / OTHER_OPERATORS / operator / "model"
    fused = load_model(job.input("expand"), AUTO_CLASSES[architecture_of(load_config(job.input("expand")))])
    assert fused.spec is not None, "the recipe was checked for fusion"
    torch.manual_seed(derive_seed(job.seed, "operator", operator))
    source.mkdir(parents=True, exist_ok=True)
    save_model(FusedModel(fused.stock, fused.spec.model_copy(update={"operator": operator})), source, job.input("expand"))
    _, module = _train(job, source, materials.encoder, source.parent, job.logs / OTHER_OPERATORS / operator)
    out = job.out / OTHER_OPERATORS / operator
    out.mkdir(parents=True)
    save_model(module.model, out, source)
    with told_out_of_memory(f"pretrain, scores of {operator}"):
        score = score_language(module, materials.held_out["domain"], job.seed, f"held-out loss, {operator}")
    return {"bits_per_base": score.bits_per_base}


def _train(job: Job[Config], source: Path, encoder: Encoder, work: Path, logs: Path) -> tuple[Trained, LanguageModel]:
    """All phases: first the new rows alone, if the recipe says so, then everything. With the model as it then is.

    The trained module may hold bfloat16; what is saved and scored is a fresh float32 model with the master weights.
    """
    config = job.config
    arguments: dict[str, Any] = {
        "corpus": str(job.input("ingest").absolute()),
        "model": str(source.absolute()),
        "modality": job.facts_of("ingest")["modality"],
        "documents": str((job.work / _DOCUMENTS).absolute()),
        "config": config.model_dump(),
        "seed": job.seed,
        "weights": None,
        "new_rows_from": None,
    }
    if config.new_rows_steps:
        vocabulary = DomainVocabulary.load(source)
        assert vocabulary is not None, "the recipe was checked for a merge"
        rows = arguments | {"new_rows_from": vocabulary.base_vocab_size, "seed": derive_seed(job.seed, "new rows")}
        phase = config.model_copy(update={"steps": config.new_rows_steps, "layer_decay": 1.0, "weight_decay": 0.0})
        settings = RunSettings(rows["seed"], "pretrain, new rows")
        first = train(Recipe("biollm.pretrain.task:build", rows), phase, settings, work=work / "new_rows", logs=logs / "new_rows")
        arguments["weights"] = str((work / "new_rows" / TRAINED / WEIGHTS).absolute())
        say(f"pretrain: new rows trained for {first.step} steps")
    settings = RunSettings(job.seed, "pretrain")
    trained = train(Recipe("biollm.pretrain.task:build", arguments), config, settings, work=work / "all", logs=logs)
    with told_out_of_memory("pretrain, while the trained model is loaded"):
        module = make_module(source, encoder, config)
        load_trained(module, trained.weights)
    module.model.stock.tie_weights()  # type: ignore[operator]
    return trained, module


def _score_start(file: Path, module: LanguageModel, materials: Materials, seed: int) -> None:
    """Scores before anything is trained, and of the trivial model, into a file: a run that goes on reads them."""
    scores = _scores(module, materials, seed, "before")
    scores[_FREQUENCIES] = score_token_frequencies(module.objective, materials.domain, materials.held_out["domain"], seed)
    write_scores(file, scores)


def _scores(module: LanguageModel, materials: Materials, seed: int, when: str) -> dict[str, LanguageScore]:
    """Losses on held-out documents of the domain, and of general text if the recipe has any."""
    scores = {"domain": score_language(module, materials.held_out["domain"], seed, f"held-out loss {when}")}
    if "general" in materials.held_out:
        scores["general"] = score_language(module, materials.held_out["general"], seed, f"loss on general text {when}")
    return scores


def _groups(job: Job[Config], materials: Materials) -> dict[str, list[str]]:
    """The group of each held-out document; those of one group are not independent."""
    group_of = dict(pl.read_parquet(job.input("ingest") / RECORDS, columns=["id", "group"]).iter_rows())
    names = {part: [example.name for example in examples] for part, examples in materials.held_out.items()}
    return {part: [group_of[n] for n in of_part] if part == "domain" else groups_of(of_part) for part, of_part in names.items()}


def _change(before: LanguageScore, after: LanguageScore, groups: list[str], seed: int) -> dict[str, Any] | None:
    """How the loss changed, in bits per base, on the same documents and by the same questions; None where its interval is not known."""
    interval = ratio_interval(after.bits - before.bits, before.units, groups, generator(seed, "pretrain", "change"))
    if interval is None:
        return None
    value = after.bits_per_base - before.bits_per_base
    return {"value": value, "low": interval[0], "high": interval[1], "groups": len(set(groups)), "documents": len(groups)}


def _general_facts(materials: Materials, config: Config) -> dict[str, Any] | None:
    if config.general is None:
        return None
    return {"replay": config.general.replay, "documents": len(materials.general), "held_out": len(materials.held_out["general"])}
