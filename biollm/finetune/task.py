"""What fine-tuning trains: built alike by every process of a run, and by the stage to predict and score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from biollm.core.errors import DataError
from biollm.core.seeding import derive_seed
from biollm.finetune.config import Config, MethodConfig
from biollm.finetune.conversations import AnswerModel, Conversation, answer_losses
from biollm.finetune.labels import FloatArray, unit_probabilities
from biollm.finetune.methods import apply_method, load_for, new_rows_for, output_modules
from biollm.finetune.problem import Materials, Problem, read_materials
from biollm.finetune.scores import Scores, probabilities_of, score_answers, score_classes, score_labels, score_values, yes_of
from biollm.modeling.adapters import inner
from biollm.modeling.fusion import FusedModel
from biollm.training.examples import TrainingPlan
from biollm.training.supervised import Labelled, SupervisedModel, collate_labelled, mean_loss, outputs_of
from biollm.training.task import Task

Module = SupervisedModel | AnswerModel


@dataclass(frozen=True)
class Readout:
    """What a model says of the records of a split. columns: of predictions.parquet, one value for each record."""

    scores: Scores
    columns: dict[str, list[Any]]


def build(*, corpus: str, model: str, modality: str, config: dict[str, Any], method: str, seed: int) -> Task:
    """The task of a run. method: the name of one of the config's."""
    settings = Config(**config)
    chosen = next(entry for entry in settings.methods if entry.name == method)
    materials = read_materials(Path(corpus), Path(model), modality, settings)
    _, module = make_model(materials, Path(model), chosen, seed)
    if chosen.gradient_checkpointing:
        stock = inner(module.adapted.stock if isinstance(module, AnswerModel) else module.model.stock)
        stock.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    plan = TrainingPlan(materials.examples["train"], chosen.positions, derive_seed(seed, "finetune", method))
    collate = module.collate if isinstance(module, AnswerModel) else lambda items: collate_labelled(items, materials.pad_id)

    def validate() -> dict[str, float]:
        loss, readout = measure(module, materials, "validation")
        return {"loss": loss} | readout.scores

    return Task(module, plan, collate, validate)


def make_model(materials: Materials, source: Path, method: MethodConfig, seed: int) -> tuple[FusedModel, Module]:
    """The model with only the parameters of a method left to train, and the module that trains it.

    seed draws a new output layer and the adapters: equal seeds give equal models.
    """
    torch.manual_seed(derive_seed(seed, "finetune", method.name))
    problem = materials.problem
    padding = {} if problem.task == "instruction" else {"pad_token_id": materials.pad_id}
    stock = load_for(source, problem.kind, method, **problem.model_options, **padding)
    adapted = apply_method(stock, method, output_modules(stock.stock), new_rows_for(method, source))
    if problem.task == "instruction":
        return adapted, AnswerModel(adapted, materials.encoder)
    return adapted, SupervisedModel(adapted, problem.loss, problem.weights)


def measure(module: Module, materials: Materials, split: str, what: str | None = None) -> tuple[float, Readout]:
    """The loss per answer on a split, and what the model says there. what: the title of a progress bar, if any.

    Raises DataError if the loss is no number.
    """
    loss, readout = _measured(module, materials, split, what)
    if not math.isfinite(loss):
        raise DataError(
            f"finetune: the loss on the {split} split is {loss}; the model's weights are out of bounds: lower learning_rate, or set "
            "precision: fp32"
        )
    return loss, readout


def _measured(module: Module, materials: Materials, split: str, what: str | None) -> tuple[float, Readout]:
    if isinstance(module, AnswerModel):
        losses = answer_losses(module, cast(list[Conversation], materials.examples[split]), what)
        scores = score_answers([(loss.nats, loss.tokens, loss.utf8_bytes) for loss in losses])
        columns: dict[str, list[Any]] = {
            "nats": [loss.nats for loss in losses],
            "tokens": [loss.tokens for loss in losses],
            "bytes": [loss.utf8_bytes for loss in losses],
        }
        return scores["nats_per_token"], Readout(scores, columns)
    examples = cast(list[Labelled], materials.examples[split])
    outputs = outputs_of(module, examples, materials.pad_id, what)
    return mean_loss(module, outputs, examples), read_out(outputs, materials, split)


def trivial_outputs(materials: Materials, split: str) -> list[FloatArray]:
    """What a model that reads nothing says: the train split's frequencies of classes or labels, or its mean value."""
    problem = materials.problem
    if problem.loss == "value":
        constant = np.zeros(1, dtype=np.float32)
    else:
        assert problem.frequencies is not None
        shares = np.clip(problem.frequencies.astype(np.float64), 1e-6, 1 - 1e-6)
        constant = np.log(shares if problem.loss == "classes" else shares / (1 - shares)).astype(np.float32)
    if problem.task != "token_classification":
        return [constant] * len(materials.examples[split])
    return [np.tile(constant, (len(example.ids), 1)) for example in materials.examples[split]]


def read_out(outputs: Sequence[FloatArray], materials: Materials, split: str) -> Readout:
    """Outputs of the records of a split, (C,) or (T, C) each, as predictions and scores."""
    problem = materials.problem
    if problem.task == "token_classification":
        return _read_units(outputs, materials, split)
    answers = np.stack([example.answer for example in cast(list[Labelled], materials.examples[split])])
    logits = np.stack(outputs)
    if problem.loss == "labels":
        yes = yes_of(logits)
        return Readout(score_labels(yes, answers), {"scores": yes.tolist()})
    if problem.loss == "value":
        values, truth = (np.asarray(part, dtype=np.float64) * problem.scale + problem.mean for part in (logits[:, 0], answers))
        return Readout(score_values(values, truth), {"value": values.tolist()})
    probabilities = probabilities_of(logits)
    return Readout(score_classes(probabilities, answers), _class_columns(probabilities, problem))


def _class_columns(probabilities: FloatArray, problem: Problem) -> dict[str, list[Any]]:
    if len(problem.names) == 2:
        return {"score": probabilities[:, 1].astype(np.float64).tolist()}
    return {"predicted": [problem.names[i] for i in probabilities.argmax(axis=1)], "scores": probabilities.tolist()}


def _read_units(outputs: Sequence[FloatArray], materials: Materials, split: str) -> Readout:
    found = [
        unit_probabilities(probabilities_of(logits), example.residues, units.of_residue, len(units.classes))
        for logits, example, units in zip(outputs, materials.examples[split], materials.units[split], strict=True)
    ]
    names = materials.problem.names
    predicted = [[None if np.isnan(row[0]) else names[int(row.argmax())] for row in record] for record in found]
    probabilities, classes = np.concatenate(found), np.concatenate([units.classes for units in materials.units[split]])
    covered = ~np.isnan(probabilities[:, 0])
    return Readout(score_classes(probabilities[covered], classes[covered]), {"predicted": predicted})
