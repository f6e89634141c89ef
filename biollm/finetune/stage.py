"""Finetune: supervised training of the adapted model, each method by itself.

output_layer/, lora/, …    model folder or adapter, with task.json: what its outputs mean
predictions.parquet        what each method says of validation and test records (see _predictions)
history.json               {method: [{step, loss_nats, learning_rate, validation_loss, validation_<score>, …}, …]}
"""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import polars as pl
import torch

from biollm.core.files import write_json
from biollm.core.job import Job
from biollm.core.model_card import write_model_card
from biollm.core.progress import say
from biollm.finetune.config import Config, MethodConfig
from biollm.finetune.conversations import AnswerModel
from biollm.finetune.methods import save_finetuned
from biollm.finetune.problem import Materials, read_materials
from biollm.finetune.scores import Scores
from biollm.finetune.task import Module, Readout, make_model, measure, read_out, trivial_outputs
from biollm.modeling.loading import load_model
from biollm.training.run import RunSettings, Trained, load_trained, train, with_hostfile
from biollm.training.task import Recipe
from biollm.training.trainer import told_out_of_memory

_SCORED = ("validation", "test")
_TASK = "task.json"


def run(job: Job[Config]) -> dict[str, Any]:
    """Train and save each method; the facts hold the scores of each on the validation and the test split, beside a trivial model's."""
    methods = [with_hostfile(method, job.recipe_folder) for method in job.config.methods]
    job = replace(job, config=job.config.model_copy(update={"methods": methods}))
    config, source = job.config, job.input("pretrain")
    materials = read_materials(job.input("ingest"), source, job.facts_of("ingest")["modality"], config)
    if materials.template is not None and materials.template.is_plain:
        say("finetune: the tokenizer has no chat template; a plain one is used, and stored beside the model")
    for method in config.methods[1:]:  # those that cannot work are refused before the first is trained; that one is when it is
        _check_model(job, materials, method)
    scored = [split for split in _SCORED if materials.ids[split]]
    baseline = _baseline(job, materials, scored)
    predictions, facts, curves = [], {}, {}
    for method in config.methods:
        trained = _train(job, method)
        # The trained module may hold bfloat16; what is saved and scored is a fresh float32 model with the master weights.
        with told_out_of_memory(f"finetune, scores of {method.name}"):
            model, module = make_model(materials, source, method, job.seed)
            load_trained(module, trained.weights)
            found = {split: measure(module, materials, split, f"{split} scores, {method.name}")[1] for split in scored}
        predictions.append(_predictions(method, materials, found))
        curves[method.name] = _curve(trained)
        facts[method.name] = _facts(method, trained, module) | {"scores": _scores(found)}
        if isinstance(module, AnswerModel):
            model = module.release()
        save_finetuned(model, job.out / method.name, source, method)
        write_json(job.out / method.name / _TASK, materials.problem.facts())
        if materials.template is not None:
            materials.template.save(job.out / method.name)
    pl.concat(predictions).write_parquet(job.out / "predictions.parquet", compression="zstd", statistics=False)
    write_json(job.out / "history.json", curves)
    told = {
        "label": ", ".join(config.label_names),
        **materials.problem.facts(),
        "records": {split: len(ids) for split, ids in materials.ids.items()},
        "baseline": baseline,
        "methods": facts,
    }
    for method in config.methods:
        write_model_card(job.out / method.name, "finetune", job, told, made_from=source, method=method.name)
    return told


def _check_model(job: Job[Config], materials: Materials, method: MethodConfig) -> None:
    """Make a method's model once, and let it go. Raises ConfigError if the method cannot work with the model."""
    with told_out_of_memory(f"finetune, while the model of {method.name} is loaded"):
        make_model(materials, job.input("pretrain"), method, job.seed)
    gc.collect()
    torch.cuda.empty_cache()  # the processes of a run have their own


def _train(job: Job[Config], method: MethodConfig) -> Trained:
    arguments: dict[str, Any] = {
        "corpus": str(job.input("ingest").absolute()),
        "model": str(job.input("pretrain").absolute()),
        "modality": job.facts_of("ingest")["modality"],
        "config": job.config.model_dump(mode="json"),
        "method": method.name,
        "seed": job.seed,
    }
    settings = RunSettings(job.seed, f"finetune, {method.name}", job.config.validate_steps, job.config.patience)
    work, logs = job.work / method.name, job.logs / method.name
    return train(Recipe("biollm.finetune.task:build", arguments), method, settings, work=work, logs=logs)


def _baseline(job: Job[Config], materials: Materials, splits: list[str]) -> dict[str, Any]:
    """The scores of what needs no fine-tuning: a model that reads nothing; for conversations, the model as it came."""
    if materials.problem.task == "instruction":
        with told_out_of_memory("finetune, scores before"):
            module = AnswerModel(load_model(job.input("pretrain"), materials.problem.kind), materials.encoder)
            found = {split: measure(module, materials, split, f"{split} scores before")[1] for split in splits}
        return {"what": "the model before fine-tuning", "scores": _scores(found)}
    found = {split: read_out(trivial_outputs(materials, split), materials, split) for split in splits}
    what = "the mean of the train split" if materials.problem.loss == "value" else "the frequencies of the train split"
    return {"what": what, "scores": _scores(found)}


def _predictions(method: MethodConfig, materials: Materials, found: dict[str, Readout]) -> pl.DataFrame:
    """One line for each validation and test record: id, method, and by task
    two classes        score: the probability of the second (of 0 and 1: of 1)
    more classes       predicted: the class; scores: the probability of each, in order
    multilabel         scores: the probability of each label's yes
    regression         value, in the units of the label
    token_classes      predicted: the class of each residue or word
    instruction        nats, tokens, bytes: the loss of the answers, and what they hold
    """
    parts = [pl.DataFrame({"id": materials.ids[split], "method": method.name} | readout.columns) for split, readout in found.items()]
    return pl.concat(parts)


def _scores(found: dict[str, Readout]) -> dict[str, Scores]:
    return {split: readout.scores for split, readout in found.items()}


def _facts(method: MethodConfig, trained: Trained, module: Module) -> dict[str, Any]:
    return {
        "steps": trained.steps,
        "weights_of_step": trained.step,
        "records_seen": trained.steps * method.batch_size,
        "precision": trained.precision,
        "trainable_parameters": sum(tensor.numel() for tensor in trained.weights.values()),
        "parameters": sum(p.numel() for p in module.parameters()),
    }


def _curve(trained: Trained) -> list[dict[str, float]]:
    """The points of both curves by their steps."""
    points: dict[float, dict[str, float]] = {}
    for point in trained.history:
        points.setdefault(point["step"], {}).update(point)
    for point in trained.validation:
        scores = {"step": point["step"]} | {f"validation_{name}": value for name, value in point.items() if name != "step"}
        points.setdefault(point["step"], {}).update(scores)
    return [points[step] for step in sorted(points)]
