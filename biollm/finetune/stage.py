"""Finetune: supervised classification with the adapted model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import polars as pl
import torch
from torch import nn

from biollm.core.files import read_json, write_json
from biollm.core.job import Job
from biollm.core.seeding import derive_seed
from biollm.corpus.columns import LABEL
from biollm.finetune.config import Config, MethodConfig
from biollm.modeling.corpus import read_records
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import FusedModel, read_spec, save_fusion
from biollm.modeling.loading import ADAPTER, copy_tokenizer, load_model, token_capacity
from biollm.training.evaluate import predict_positive
from biollm.training.examples import Example, TrainingPlan, check_lengths, encode_corpus
from biollm.training.objectives import SequenceClassifier, cross_entropy
from biollm.training.run import load_trained, train

_SCORED = ("validation", "test")


def run(job: Job[Config]) -> dict[str, Any]:
    config, source = job.config, job.input("pretrain")
    column = LABEL + config.label
    records = read_records(job.input("ingest")).drop_nulls(column)
    encoder = Encoder(source)
    spec = read_spec(source)
    examples = encode_corpus(records, encoder, spec, column)
    splits = records["split"].to_list()
    train_examples = [example for example, split in zip(examples, splits, strict=True) if split == "train"]
    scored = [i for i, split in enumerate(splits) if split in _SCORED]

    predictions, facts, curves = [], {}, {}
    for method in config.methods:
        module = SequenceClassifier(_prepare(source, method, derive_seed(job.seed, "finetune", method.name)))
        check_lengths(examples, records["id"].to_list(), token_capacity(source, module.model.stock))
        originals = {name: p.detach().clone() for name, p in module.named_parameters()}
        curves[method.name], trained = _fit(job, method, module, train_examples, encoder)
        # bfloat16 training rounds the frozen weights too: back to the float32 originals, then the trained ones over them
        module = module.float()
        load_trained(module, originals | trained)
        scores = predict_positive(module, [examples[i] for i in scored], encoder, f"scores, {method.name}")
        predictions.append(pl.DataFrame({"id": records["id"].gather(scored), "method": method.name, "score": scores}))
        _save(module.model, job.out / method.name, source)
        facts[method.name] = {
            "steps": method.steps,
            "records_seen": method.steps * method.batch_size * method.gradient_accumulation,
            "trainable_parameters": sum(tensor.numel() for tensor in trained.values()),
            "parameters": sum(p.numel() for p in module.parameters()),
        }
    pl.concat(predictions).write_parquet(job.out / "predictions.parquet", compression="zstd", statistics=False)
    write_json(job.out / "history.json", curves)
    return {"label": config.label, "methods": facts}


def _fit(
    job: Job[Config], method: MethodConfig, module: SequenceClassifier, examples: list[Example], encoder: Encoder
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    positions = method.steps * method.batch_size * method.gradient_accumulation
    plan = TrainingPlan(examples, positions, derive_seed(job.seed, "finetune", method.name))
    work, logs = job.work / method.name, job.logs / method.name
    trained = train(module, plan, encoder, cross_entropy, method, seed=job.seed, work=work, logs=logs, what=f"finetune, {method.name}")
    return trained.history, trained.weights


def _prepare(source: Path, method: MethodConfig, seed: int) -> FusedModel:
    """The adapted model with a fresh classification head, and only the parameters of the method left to train."""
    torch.manual_seed(seed)  # draws the head, and the adapters
    model = load_model(source, "AutoModelForSequenceClassification", num_labels=2)
    if method.name == "output_layer":
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for module in _output_modules(model.stock).values():
            module.requires_grad_(True)
        return model
    from peft import LoraConfig, TaskType, get_peft_model

    # What stands on top is new, so it is trained and saved whole: an adapter on random weights that nobody saved is worth nothing.
    outputs = list(_output_modules(model.stock))
    adapter = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=method.lora_rank,
        lora_alpha=2 * method.lora_rank,
        target_modules="all-linear",
        exclude_modules=rf"(.*\.)?({'|'.join(outputs)})(\..*)?",
        modules_to_save=outputs,
    )
    fusion = model.operator
    model.stock = get_peft_model(cast(Any, model.stock), adapter)
    if fusion is not None:
        fusion.requires_grad_(True)  # small, and trained in full beside the adapters
    return model


def _output_modules(stock: nn.Module) -> dict[str, nn.Module]:
    """What stands on top of the encoder, by name: all with parameters outside it, and the pooler that some encoders carry."""
    encoder = stock.base_model
    found = {name: child for name, child in stock.named_children() if child is not encoder and any(True for _ in child.parameters())}
    pooler = getattr(encoder, "pooler", None)
    return found | ({"pooler": pooler} if isinstance(pooler, nn.Module) else {})


def _save(model: FusedModel, folder: Path, source: Path) -> None:
    """A stock model folder, or a stock peft adapter folder that names its base by the path within the results."""
    model.stock.save_pretrained(str(folder))  # type: ignore[operator]
    (folder / "README.md").unlink(missing_ok=True)  # peft's model card is an empty form
    if (adapter := folder / ADAPTER).is_file():
        settings = read_json(adapter)
        settings["base_model_name_or_path"] = f"../../{source.name}"  # relative to the adapter: no absolute path in an artifact
        settings["target_modules"] = sorted(settings["target_modules"])  # peft writes a set, in another order each time
        write_json(adapter, settings)
    copy_tokenizer(source, folder)
    save_fusion(folder, model)
