"""What the tests share: small real inputs, a tiny real base model, recipes over them, and the command line as a user calls it.

Everything here is made by the stock libraries or by biollm itself; nothing stands in for a part that runs.
"""

from __future__ import annotations

import copy
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test may reach for the network
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

settings.register_profile("biollm", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("biollm")

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_WORDS = ["the", "gene", "cell", "of", "and", "is", "in", "cat", "tag", "protein", "##ing", "##ed", "##tion", "##gat", "##aca"]
BASE_VOCABULARY = [*SPECIAL_TOKENS, *_LETTERS, *("##" + letter for letter in _LETTERS), *".,:;!?()[]-'\"/%", *_WORDS]
CONTEXT_TOKENS = 128
PLAIN_TEXT = "".join(
    f"{line}\n"
    for line in (
        "The gene is in the cell.",
        "Cats tag proteins; the cell is tagged.",
        "A TATA box: GATTACA (short, so it stays text).",
        "Numbers 1234, symbols %!? and an é accent.",
        "the sequence GATTACAGATTACAGATTACA is a run of DNA and no plain text",
    )
)


def random_dna(bases: int, seed: int) -> str:
    """DNA in which both strands, CpGs and repeats of short words are common enough to learn from."""
    rng = random.Random(seed)
    return "".join(rng.choices(["A", "C", "G", "T", "CG", "TATA"], weights=[5, 4, 4, 5, 1, 1], k=bases))[:bases]


def fasta(records: dict[str, str], width: int = 60) -> str:
    """FASTA text with wrapped lines."""
    return "".join(f">{name}\n" + "".join(seq[i : i + width] + "\n" for i in range(0, len(seq), width)) for name, seq in records.items())


def gff(rows: list[tuple[str, str, int, int]]) -> str:
    """GFF3 text from (contig, type, start, end) with 1-based inclusive positions."""
    return "##gff-version 3\n" + "".join(f"{contig}\ttest\t{kind}\t{start}\t{end}\t.\t+\t.\tID=x\n" for contig, kind, start, end in rows)


def write_bert_base(folder: Path, *, vocabulary: list[str] | None = None, head: bool = True, seed: int = 1, **config: Any) -> Path:
    """A base model folder as a user has it: tiny random BERT, and a tokenizer.json that arrives with truncation and padding on."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertModel

    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokens = vocabulary or BASE_VOCABULARY
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(pad_id=ids["[PAD]"], pad_token="[PAD]", length=16)
    torch.manual_seed(seed)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": CONTEXT_TOKENS,
    }
    model_config = BertConfig(vocab_size=len(tokens), **shape | config)
    model = BertForMaskedLM(model_config) if head else BertModel(model_config)
    model.save_pretrained(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "model_max_length": 128, "pad_token": "[PAD]", "unk_token": "[UNK]", '
        '"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "do_lower_case": true}'
    )
    return folder


@pytest.fixture(scope="session")
def bert_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT folder. Shared: read it, or copy it to change it."""
    return write_bert_base(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture(scope="session")
def make_bert_base() -> Callable[..., Path]:
    """write_bert_base(folder, vocabulary=…, head=…, seed=…, **BertConfig keys) -> folder."""
    return write_bert_base


def _recipe() -> dict[str, Any]:
    return {
        "name": "tiny",
        "seed": 3,
        "threads": 1,
        "base": {"model": "base"},
        "ingest": {
            "sources": [{"name": "one", "sequences": "one.fa", "annotation": "one.gff"}],
            "window_bases": 64,
            "labels": [{"name": "coding", "feature": "CDS", "min_fraction": 0.5}],
            "tracks": [{"name": "cpg", "kind": "cpg_observed_expected", "window_bases": 16}],
            "split": {"block_bases": 640, "gap_bases": 64, "validation": 0.2, "test": 0.2},
        },
        "tokenizer": {"vocab_size": 64, "piece_residues": 50},
        "merge": {"min_run": 12, "plain_text": "plain.txt"},
        "expand": {"init": "mean", "held_out_records": 8, "fusion": {"channels": ["cpg"]}},
        "pretrain": {"steps": 4, "batch_size": 8, "checkpoint_steps": 2, "log_steps": 1, "precision": "fp32"},
        "embed": {"models": ["base", "expand", "pretrain"]},
    }


def _changed(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    merged = {key: _changed(old.get(key), value) for key, value in new.items()}
    return {key: value for key, value in (old | merged).items() if value is not None}


@pytest.fixture(scope="session")
def tiny_recipe(bert_base: Path) -> Callable[..., Path]:
    """tiny_recipe(folder, **changes) -> path of a recipe whose stages run in seconds, with its data files beside it.

    It has the sections ingest to embed (without finetune). changes: sections or header keys, merged into it key by key; None
    removes one. For all stages: tiny_recipe(tmp_path, finetune={"label": "coding", "methods": […]}, classify={…}, report={}).
    """

    def make(folder: Path, **changes: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        contigs = {"chrI": random_dna(12_000, 1), "chrII": random_dna(8_000, 2)}
        coding = [(name, "CDS", start, start + 600) for name, seq in contigs.items() for start in range(101, len(seq) - 600, 1300)]
        genes = [(name, "gene", start, end) for name, _, start, end in coding]
        (folder / "one.fa").write_text(fasta(contigs))
        (folder / "one.gff").write_text(gff([*genes, *coding]))
        (folder / "plain.txt").write_text(PLAIN_TEXT)
        if not (folder / "base").exists():
            shutil.copytree(bert_base, folder / "base")
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(_changed(copy.deepcopy(_recipe()), changes), sort_keys=False))
        return recipe

    return make


@pytest.fixture(scope="session")
def tiny_results(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Callable[..., Path]) -> Path:
    """The results folder of the tiny recipe: the real stages ingest, tokenizer, merge and expand have run. Shared: read only."""
    from biollm.stages import BY_NAME, Run

    folder = tmp_path_factory.mktemp("tiny")
    run = Run.load(tiny_recipe(folder), out=folder / "results")
    for name in ("ingest", "tokenizer", "merge", "expand"):
        run.run_stage(BY_NAME[name])
    return run.results


Biollm = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def biollm() -> Biollm:
    """biollm("ingest", recipe, "--out", folder, preexec_fn=…) -> the finished process, with stdout and stderr as text."""
    root = str(Path(__file__).parent.parent)

    def call(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("env", os.environ | {"PYTHONPATH": root})
        command = [sys.executable, "-m", "biollm", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)

    return call


@pytest.fixture(scope="session")
def dna() -> Callable[[int, int], str]:
    """dna(bases, seed) -> seeded random DNA, upper-case ACGT."""
    return random_dna


@pytest.fixture(scope="session")
def fasta_text() -> Callable[..., str]:
    """fasta_text({name: sequence}, width=60) -> FASTA with wrapped lines."""
    return fasta


@pytest.fixture(scope="session")
def gff_text() -> Callable[[list[tuple[str, str, int, int]]], str]:
    """gff_text([(contig, type, start, end)]) -> GFF3, positions 1-based and inclusive."""
    return gff
