"""Tokenizer: a domain tokenizer trained on the train split, or on files of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from biollm.core.alphabets import ALPHABETS, Modality
from biollm.core.errors import ConfigError, DataError
from biollm.core.files import read_json
from biollm.core.job import Job
from biollm.core.progress import progress
from biollm.modeling.base import normal_folder
from biollm.modeling.corpus import read_records
from biollm.modeling.domain import DomainSpec, DomainTokenizer, Kind, case_of, probe_of
from biollm.modeling.sequence_files import read_sequences
from biollm.modeling.vocabulary import TOKENIZER, load_tokenizer
from biollm.tokenizer import corpus as corpora
from biollm.tokenizer.config import Config, above_fast_path, below_alphabet, least_vocab_size
from biollm.tokenizer.corpus import Corpus
from biollm.tokenizer.smiles import check_atoms, spell_in_characters, train_atom_bpe, train_atom_unigram, train_atom_wordpiece
from biollm.tokenizer.train import (
    build_chars,
    build_kmers,
    build_overlapping_kmers,
    train_bpe,
    train_unigram,
    train_wordpiece,
)
from tokenizers import Tokenizer

_KIND_OF_MODEL: dict[str, Kind] = {"BPE": "bpe", "WordPiece": "wordpiece", "Unigram": "unigram"}
_MAX_RESIDUES = 20_000_000
_MAX_RESIDUES_UNIGRAM = 4_000_000  # it segments its corpus a score of times
_PROBE_RESIDUES = 2_000
_PROBE_BYTES = 64_000
_BATCH = 256


def run(job: Job[Config]) -> dict[str, Any]:
    config = job.config
    modality = config.modality_beside(job.facts_of("ingest").get("modality", "dna") if "ingest" in job.inputs else None)
    kind = config.kind or _kind_of_base(job)
    if kind in ("bpe", "wordpiece", "unigram") and config.vocab_size < (least := least_vocab_size(kind, modality)):
        raise ConfigError(below_alphabet(kind, modality, config.vocab_size, least))
    if much := above_fast_path(kind, modality, config.vocab_size):
        raise ConfigError(much)
    corpus, source_facts = _from_files(job, modality, kind) if config.files else _from_ingest(job)
    if not corpus.train or not corpus.held_out:
        raise DataError(
            f"tokenizer: {len(corpus.train)} sequences to train on and {len(corpus.held_out)} held out; at least one of each is needed, "
            "give more data"
        )
    available = sum(map(len, corpus.train))
    limit = config.max_residues or (_MAX_RESIDUES_UNIGRAM if kind == "unigram" else _MAX_RESIDUES)
    train = corpora.sample_evenly(corpus.train, limit)
    seen = list(corpora.both_strands(train, modality)) if config.reverse_complement else train
    tokenizer, residues = _train(config, modality, kind, seen, corpus)
    size = tokenizer.get_vocab_size()
    if kind not in ("kmer", "char") and size < config.vocab_size:
        raise DataError(
            f"tokenizer.vocab_size is {config.vocab_size}, but the train split ({sum(map(len, train))} residues) yields only {size} "
            "tokens; lower vocab_size or give more data"
        )
    domain = DomainTokenizer(
        tokenizer,
        DomainSpec(
            modality=modality,
            kind=kind,
            residues=residues,
            case=case_of(modality),
            vocab_size=size,
            piece_residues={"wordpiece": config.piece_residues, "kmer": None if config.overlapping else config.kmer}.get(kind),
            kmer=config.kmer,
            overlapping=config.overlapping,
            strands=2 if config.reverse_complement else 1,
        ),
        probe_of(corpora.spread_evenly(corpus.held_out, _PROBE_BYTES), _PROBE_RESIDUES, _PROBE_BYTES),
    )
    facts = _measure(domain, corpus.held_out, seen)
    domain.save(job.out)
    return {
        "kind": kind,
        "modality": modality,
        "vocab_size": size,
        "strands": domain.spec.strands,
        "train_sequences": len(train),
        "train_residues": sum(map(len, train)),
        "train_residues_available": available,
        **source_facts,
        **facts,
    }


def _kind_of_base(job: Job[Config]) -> Kind:
    folder, _ = normal_folder(job.base_folder())
    load_tokenizer(folder)  # a damaged one is named here
    model = read_json(folder / TOKENIZER)["model"]["type"]
    if model not in _KIND_OF_MODEL:
        raise ConfigError(
            f"{folder / TOKENIZER}: the base tokenizer is a {model}; domain tokenizers are {', '.join(_KIND_OF_MODEL)}: set tokenizer.kind"
        )
    return _KIND_OF_MODEL[model]


def _from_ingest(job: Job[Config]) -> tuple[Corpus, dict[str, Any]]:
    records = {split: read_records(job.input("ingest"), split)["sequence"].to_list() for split in ("train", "validation")}
    return Corpus(records["train"], records["validation"]), {"source": "ingest"}


def _from_files(job: Job[Config], modality: Modality, kind: Kind) -> tuple[Corpus, dict[str, Any]]:
    config = job.config
    read = read_sequences([file for resource in config.files for file in job.files(resource)], modality, config.column)
    if modality == "smiles" and kind != "char":  # a corpus of ingest has been read by RDKit
        check_atoms((f"{record.file} {record.where}", record.sequence) for record in read.records)
    corpus = corpora.hold_out((record.sequence for record in read.records), modality)
    return corpus, {"source": "files", "sequences_read": len(read.records), "blank_left_out": read.blank}


def _letters_of(*sides: Iterable[str]) -> set[str]:
    return {letter for sequences in sides for sequence in sequences for letter in set(sequence)}


def _train(config: Config, modality: Modality, kind: Kind, sequences: Sequence[str], corpus: Corpus) -> tuple[Tokenizer, str]:
    """The tokenizer, and the residues that have tokens. sequences: what is trained on, of the corpus."""
    alphabet = ALPHABETS[modality]
    fold, size = alphabet.folds_case, config.vocab_size
    letters = alphabet.residues or None
    words = corpora.training_words(sequences, modality)
    if kind == "char":
        return build_chars(letters, fold_case=fold), alphabet.residues
    if kind == "kmer":
        assert config.kmer is not None
        # All letters of protein would make far more k-mers than those that occur; a letter that never did has no token. The held-out side
        # has its say in this alone: a rare letter (selenocysteine) may stand on that side only.
        observed = "".join(sorted(_letters_of(sequences, corpus.train, corpus.held_out) | set(alphabet.unknown)))
        build = build_overlapping_kmers if config.overlapping else build_kmers
        return build(observed, config.kmer, fold_case=fold), observed
    if modality == "smiles" and kind == "wordpiece":
        return train_atom_wordpiece(sequences, size, config.piece_residues), alphabet.residues
    if modality == "smiles" and kind == "unigram":
        return train_atom_unigram(sequences, size), alphabet.residues
    if kind == "wordpiece":
        return train_wordpiece(words, letters, size, config.piece_residues, fold_case=fold), alphabet.residues
    if kind == "unigram":
        return train_unigram(words, letters, size, fold_case=fold), alphabet.residues
    if modality == "smiles":
        return spell_in_characters(train_atom_bpe(sequences, size)), alphabet.residues
    return train_bpe(words, letters, size, fold_case=fold), alphabet.residues


def _measure(domain: DomainTokenizer, held_out: Sequence[str], train: Sequence[str]) -> dict[str, Any]:
    """What the tokenizer does to sequences that it was not trained on, and which tokens it never uses on those that it was.

    Raises DataError if a held-out sequence does not come back, or holds a token for "unknown".
    """
    failures = tokens = 0
    for batch in progress(_batches(held_out), "reading held-out sequences", unit="batch"):
        for sequence, ids in zip(batch, domain.encode_batch(batch), strict=True):
            tokens += len(ids)
            failures += domain.decode(ids) != domain.normal(sequence)
    if failures:
        raise DataError(
            f"the domain tokenizer does not give back {failures} of {len(held_out)} held-out sequences; please report the recipe"
        )
    used: set[int] = set()
    for batch in progress(_batches(train), "counting used tokens", unit="batch"):
        used.update(*domain.encode_batch(batch))
    residues = sum(map(len, held_out))
    return {
        "held_out_sequences": len(held_out),
        "held_out_residues": residues,
        "probe_sequences": len(held_out),
        "round_trip_failures": failures,
        "residues_per_token": {"held_out": residues / tokens},
        "tokens_unused_in_train": domain.spec.vocab_size - len(used),
    }


def _batches(sequences: Sequence[str]) -> list[Sequence[str]]:
    return [sequences[i : i + _BATCH] for i in range(0, len(sequences), _BATCH)]
