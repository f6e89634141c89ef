"""One masked-language training step: the head at masked positions only, against transformers' head at every position."""

from __future__ import annotations

import copy

import torch
from harness import compare
from transformers import BertConfig, BertForMaskedLM

from biollm.modeling.fusion import FusedModel
from biollm.training.objectives import MaskedLanguageModel, cross_entropy

RECORDS, TOKENS, VOCABULARY = 32, 64, 31_545  # the quickstart's batch
torch.manual_seed(0)
stock = BertForMaskedLM(
    BertConfig(vocab_size=VOCABULARY, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
)
ids = torch.randint(0, VOCABULARY, (RECORDS, TOKENS))
mask = torch.ones_like(ids)
labels = torch.where(torch.rand(ids.shape) < 0.15, ids, -100)
thin = MaskedLanguageModel(FusedModel(copy.deepcopy(stock))).train()
full = stock.train()


def ours() -> None:
    cross_entropy(thin(ids, mask, labels != -100), labels).backward()


def transformers_full_head() -> None:
    full(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()


compare(
    "masked_head", ours, {"transformers BertForMaskedLM": transformers_full_head}, f"seconds per step of {RECORDS} x {TOKENS} tokens, fp32"
)
