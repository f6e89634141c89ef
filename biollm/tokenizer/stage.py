"""Tokenizer: a domain tokenizer trained on the train split."""

from __future__ import annotations

from typing import Any

from biollm.core.alphabets import DNA
from biollm.core.errors import DataError
from biollm.core.job import Job
from biollm.modeling.corpus import read_records
from biollm.tokenizer.config import Config
from biollm.tokenizer.train import UNKNOWN, train_wordpiece


def run(job: Job[Config]) -> dict[str, Any]:
    config = job.config
    train = read_records(job.input("ingest"), "train")["sequence"].to_list()
    probe = read_records(job.input("ingest"), "validation")["sequence"].to_list()
    tokenizer = train_wordpiece(train, DNA, config.vocab_size, config.piece_residues)
    size = tokenizer.get_vocab_size()
    if size < config.vocab_size:
        raise DataError(
            f"tokenizer.vocab_size is {config.vocab_size}, but the train split ({sum(map(len, train))} bases) yields only {size} tokens; "
            "lower vocab_size or give more data"
        )
    encoded = tokenizer.encode_batch(probe)
    failures = sum(tokenizer.decode(e.ids) != sequence for e, sequence in zip(encoded, probe, strict=True))
    unknown = sum(token == UNKNOWN for e in encoded for token in e.tokens)
    if failures or unknown:
        raise DataError(
            f"the domain tokenizer does not give back {failures} of {len(probe)} validation sequences ({unknown} unknown tokens)"
        )
    tokenizer.save(str(job.out / "tokenizer.json"))
    return {
        "kind": config.kind,
        "vocab_size": size,
        "probe_sequences": len(probe),
        "round_trip_failures": failures,
        "bases_per_token": {"validation": sum(map(len, probe)) / sum(len(e.ids) for e in encoded)},
    }
