"""Language modelling by any stock model: masked, causal or sequence to sequence; its loss on held-out sequences, and a short training.

The loss is counted where a token of a sequence is predicted and given per residue, so that vocabularies can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from biollm.core.progress import progress
from biollm.core.seeding import derive_seed, generator
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import FusedModel
from biollm.training.examples import IGNORED, Example, collate, mask_tokens
from biollm.training.objectives import MaskedLanguageModel

Objective = Literal["masked", "causal", "seq2seq"]
AUTO_CLASSES: dict[Objective, str] = {
    "masked": "AutoModelForMaskedLM",
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
_MASK_RATE = 0.15
_BATCH = 8
_LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class LanguageScore:
    """Loss per predicted token (depends on the vocabulary) and in bits per residue that the tokens stand for."""

    nats_per_token: float
    bits_per_base: float


def objective_of(config: Any) -> Objective:
    """What a model was pretrained to do, by its transformers config."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if config.is_encoder_decoder:
        return "seq2seq"
    architecture = (config.architectures or [""])[0]
    generates = architecture.endswith(("CausalLM", "LMHeadModel"))
    masks = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "causal" if generates or (not masks and config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) else "masked"


def base_examples(records: pl.DataFrame, encoder: Encoder) -> list[Example]:
    """Records as a tokenizer without the domain reads them: as text, each token counting for the letters that it covers."""
    examples = []
    sequences = records["sequence"].to_list()
    for sequence, encoding in zip(sequences, encoder.tokenizer.encode_batch(sequences, add_special_tokens=False), strict=True):
        residues = np.asarray([end - start for start, end in encoding.offsets], dtype=np.int64)
        ids = encoder.with_special_tokens(np.asarray(encoding.ids, dtype=np.int64))
        around = np.zeros(len(encoder.prefix), dtype=np.int64), np.zeros(len(encoder.suffix), dtype=np.int64)
        examples.append(Example(sequence, ids, np.concatenate([around[0], residues, around[1]]), None))
    return examples


def score_language(
    stock: nn.Module, examples: Sequence[Example], encoder: Encoder, objective: Objective, seed: int, what: str
) -> LanguageScore:
    """The loss on held-out examples, in float32. Every model that is scored with one seed predicts the same positions.

    masked: a pseudo-likelihood of masked tokens; causal: all tokens but the first; seq2seq: the second half, given the first.
    """
    predict = _predictor(stock, objective)
    stock.eval()
    nats, tokens, residues = 0.0, 0, 0
    prepared = [_prepare(example, encoder, objective, derive_seed(seed, "evaluation", i)) for i, example in enumerate(examples)]
    with torch.no_grad():
        for start in progress(range(0, len(prepared), _BATCH), what, unit="batch"):
            chunk = prepared[start : start + _BATCH]
            logits, answers = predict(_batch(stock, chunk, encoder))
            nats += float(functional.cross_entropy(logits.float(), answers, reduction="sum"))
            tokens += len(answers)
            residues += sum(int(example.residues[np.asarray(example.labels) != IGNORED].sum()) for example in chunk)
    return LanguageScore(nats_per_token=nats / tokens, bits_per_base=nats / math.log(2) / residues)


def train_briefly(
    stock: nn.Module, examples: Sequence[Example], encoder: Encoder, objective: Objective, steps: int, seed: int, what: str
) -> None:
    """Train a model in place for a few steps, to compare starts: AdamW, constant rate, batches by seed alone. No checkpoints."""
    predict = _predictor(stock, objective)
    stock.train()
    torch.manual_seed(derive_seed(seed, "dropout"))
    optimizer = torch.optim.AdamW([p for p in stock.parameters() if p.requires_grad], lr=_LEARNING_RATE, weight_decay=0.0)
    order = generator(seed, "order").integers(len(examples), size=(steps, _BATCH))
    for step in progress(range(steps), what, unit="step"):
        chunk = [
            _prepare(examples[i], encoder, objective, derive_seed(seed, "mask", step, position)) for position, i in enumerate(order[step])
        ]
        logits, answers = predict(_batch(stock, chunk, encoder))
        optimizer.zero_grad()
        functional.cross_entropy(logits.float(), answers).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(stock.parameters(), 1.0)
        optimizer.step()
    stock.eval()


def _prepare(example: Example, encoder: Encoder, objective: Objective, seed: int) -> Example:
    """An example with the labels of an objective: (T,), the true id where it is to be predicted, IGNORED elsewhere."""
    if objective == "masked":
        return mask_tokens(example, encoder, None, _MASK_RATE, seed, masked=1.0, randomised=0.0)
    counted = example.residues > 0
    first = np.flatnonzero(counted)[0]
    counted[first if objective == "causal" else slice(0, len(counted) // 2)] = False
    return replace(example, labels=np.where(counted, example.ids, IGNORED), features=None)


def _batch(stock: nn.Module, examples: Sequence[Example], encoder: Encoder) -> dict[str, Tensor]:
    device = next(stock.parameters()).device
    return {name: tensor.to(device) for name, tensor in collate(examples, encoder).items()}


def _predictor(stock: nn.Module, objective: Objective) -> Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]:
    """A function from a batch to the logits (M, V) at the M labels that count, and these labels (M,)."""
    masked = MaskedLanguageModel(FusedModel(stock)) if objective == "masked" else None

    def predict(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        labels, mask = batch["labels"], batch["attention_mask"]
        counted = labels != IGNORED
        if masked is not None:
            return masked(batch["input_ids"], mask, batch["predicted"])["logits"], labels[counted]
        if objective == "causal":
            logits = stock(input_ids=batch["input_ids"], attention_mask=mask).logits
            return logits[:, :-1][counted[:, 1:]], labels[:, 1:][counted[:, 1:]]
        read = mask * (torch.arange(labels.shape[1], device=labels.device) < mask.sum(1, keepdim=True) // 2)
        return stock(input_ids=batch["input_ids"], attention_mask=read, labels=labels).logits[counted], labels[counted]

    return predict
