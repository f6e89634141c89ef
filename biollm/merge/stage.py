"""Merge: base tokenizer + domains into one stock tokenizer.json, proved lossless."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biollm.core.errors import ConfigError, DataError
from biollm.core.files import canonical_json, read_json, write_json
from biollm.core.job import Job
from biollm.core.progress import say
from biollm.core.resources import resolve_folder
from biollm.core.seeding import generator
from biollm.merge import proof
from biollm.merge.config import Config, ContinueConfig, IsolateConfig
from biollm.merge.continuation import continue_tokenizer, prove_continuation
from biollm.merge.isolate import Recognition, add_domain, next_id
from biollm.modeling.base import normal_folder
from biollm.modeling.corpus import read_records
from biollm.modeling.domain import DomainTokenizer
from biollm.modeling.vocabulary import SIDECAR, TOKENIZER, TOKENIZER_FILES, Domain, DomainVocabulary, load_tokenizer
from tokenizers import Tokenizer

_SHOWN_RESIDUES = 60


@dataclass(frozen=True)
class State:
    """A tokenizer on its way from base to merged: what it is, and what its domains are."""

    json: dict[str, Any]
    vocabulary: DomainVocabulary

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_str(canonical_json(self.json))


@dataclass(frozen=True)
class PlainText:
    """The text that proves that nothing else changed."""

    lines: list[str]
    random_strings: int
    seed: int


def run(job: Job[Config]) -> dict[str, Any]:
    config = job.config
    base_folder, notes = normal_folder(job.base_folder())
    before = read_json(_tokenizer_file(base_folder))
    base = _open_base(base_folder)
    plain = PlainText(
        proof.sample_lines([proof.read_lines(job.files(name)) for name in config.plain_text], config.plain_lines),
        config.random_strings,
        job.seed,
    )
    state, id_maps, domains = base, {}, []
    for section in config.domains:
        if isinstance(section, IsolateConfig):
            state, id_map, facts = _isolate(job, section, state, base.tokenizer, plain)
            id_maps[facts["name"]] = {str(domain_id): merged_id for domain_id, merged_id in id_map.items()}
        else:
            state, facts = _continue(job, section, state, plain)
        say(f"merge: {facts['name']}: {facts['new_tokens']} new tokens")
        domains.append(facts)
    _write(job.out, base_folder, state, id_maps)

    merged = load_tokenizer(job.out)  # what is proved is what was written
    added = set(merged.get_added_tokens_decoder()) - set(base.tokenizer.get_added_tokens_decoder())
    if added:
        raise DataError(f"merge: {len(added)} new tokens stand in added_tokens; please report the base tokenizer")
    _prove_transformers_opens(job.out, merged, [*plain.lines[:200], *(e["text"] for facts in domains for e in facts["examples"])])
    return {
        "base_vocab_size": base.tokenizer.get_vocab_size(),
        "merged_vocab_size": merged.get_vocab_size(),
        "new_tokens": merged.get_vocab_size() - base.tokenizer.get_vocab_size(),
        "truncation_switched_off": before.get("truncation") is not None,
        "padding_switched_off": before.get("padding") is not None,
        "base_notes": notes,
        **proof.prove_base_ids(base.tokenizer, merged),
        "domains": domains,
    }


def _isolate(
    job: Job[Config], section: IsolateConfig, state: State, base: Tokenizer, plain: PlainText
) -> tuple[State, dict[int, int], dict[str, Any]]:
    """One domain of sequences more: the merged tokenizer, the map of ids, and what was proved."""
    folder = resolve_folder(section.tokenizer, job.recipe_folder) if section.tokenizer else job.input("tokenizer")
    domain = DomainTokenizer.load(folder)
    modality = domain.spec.modality
    if modality == "text" or domain.spec.overlapping:
        why = (
            "words have no alphabet of their own; merge them with strategy 'continue'"
            if modality == "text"
            else "overlapping k-mers cannot be cut out of a text by one stock tokenizer.json; train non-overlapping k-mers, or bpe"
        )
        raise ConfigError(f"merge: the tokenizer {section.tokenizer or 'of this recipe'} cannot be isolated: {why}")
    if any(other.modality == modality for other in state.vocabulary.isolated):
        raise ConfigError(f"merge: the base already has a domain '{modality}'; a merged tokenizer has one domain of each kind")
    runs = section.runs if section.runs is not None else modality in ("dna", "rna")
    if not runs and not section.tags:
        raise ConfigError(f"merge: runs and tags are both off, so no text could hold a {modality} sequence; switch one on")
    merged_json, vocabulary, id_map = add_domain(
        state.json,
        state.vocabulary,
        json.loads(domain.tokenizer.to_str()),
        name=modality,
        modality=modality,
        kind=domain.spec.kind,
        residues=domain.spec.residues,
        piece_residues=domain.spec.piece_residues,
        recognition=Recognition(section.case, section.min_run if runs else None, section.tags),
    )
    added, merged = vocabulary.domains[-1], State(merged_json, vocabulary)
    sequences = _held_out(job, section, domain)
    facts = {
        **_describe(added),
        **proof.prove_plain_text(state.tokenizer, merged.tokenizer, vocabulary, plain.lines),
        **proof.prove_domain(added, domain.tokenizer, merged.json, id_map, sequences),
        **proof.prove_reachable(added, merged.tokenizer),
        **proof.prove_random_strings(
            state.tokenizer, merged.tokenizer, vocabulary, plain.random_strings, generator(plain.seed, "merge", modality)
        ),
        **proof.describe_base(base, sequences),
        "examples": proof.examples(base, merged.tokenizer, added, [_shown(added, sequence) for sequence in sequences]),
    }
    return merged, id_map, facts


def _continue(job: Job[Config], section: ContinueConfig, state: State, plain: PlainText) -> tuple[State, dict[str, Any]]:
    """One domain of words more: the merged tokenizer, and what was proved."""
    text = proof.read_lines(file for name in section.text for file in job.files(name))
    sealed = [i for other in state.vocabulary.isolated for i in other.ids]  # a sequence in the text keeps its tokens
    continued = continue_tokenizer(state.json, text, section.new_tokens, section.min_count, sealed=sealed)
    domain = Domain(
        name=section.name,
        strategy="continue",
        modality="text",
        kind=str(state.json["model"]["type"]).lower(),
        first_id=continued.first_id,
        new_tokens=len(continued.new),
    )
    merged = State(continued.merged, state.vocabulary.model_copy(update={"domains": [*state.vocabulary.domains, domain]}))
    before, after = state.tokenizer, merged.tokenizer
    changed = [
        line
        for line, encoding in zip(text, after.encode_batch(text, add_special_tokens=False), strict=True)
        if any(i in domain.ids for i in encoding.ids)
    ]
    facts = {
        **_describe(domain),
        **{f"text_{key}": value for key, value in continued.facts.items()},
        **prove_continuation(state.json, continued.merged, plain.lines),
        "examples": proof.examples(before, after, domain, proof.sample_lines([changed], 10)),
    }
    return merged, facts


def _describe(domain: Domain) -> dict[str, Any]:
    return domain.model_dump(include={"name", "strategy", "modality", "kind", "new_tokens", "scaffold_tokens", "first_id"})


def _held_out(job: Job[Config], section: IsolateConfig, domain: DomainTokenizer) -> list[str]:
    """Sequences that the domain tokenizer was not trained on: those of the validation split, or those that it brings along."""
    if section.tokenizer is None and "ingest" in job.inputs:
        return read_records(job.input("ingest"), "validation")["sequence"].to_list()
    return [domain.normal(sequence) for sequence in domain.probe]


def _shown(domain: Domain, sequence: str) -> str:
    head = sequence[:_SHOWN_RESIDUES]
    return head if domain.min_run else f"<{domain.modality}>{head}</{domain.modality}>"


def _open_base(folder: Path) -> State:
    """The base tokenizer, which may itself be a merged one, without truncation and padding."""
    tokenizer = load_tokenizer(folder)
    content = json.loads(tokenizer.to_str())
    vocabulary = DomainVocabulary.load(folder) or DomainVocabulary(base_vocab_size=next_id(content), domains=[])
    return State(content, vocabulary)


def _tokenizer_file(folder: Path) -> Path:
    load_tokenizer(folder)  # says what is wrong with it
    return folder / TOKENIZER


def _write(out: Path, base_folder: Path, state: State, id_maps: dict[str, dict[str, int]]) -> None:
    for name in TOKENIZER_FILES:
        if (base_folder / name).is_file() and name not in (TOKENIZER, SIDECAR):
            shutil.copyfile(base_folder / name, out / name)
    shutil.copyfile(base_folder / TOKENIZER, out / "base_tokenizer.json")
    state.tokenizer.save(str(out / TOKENIZER))
    write_json(out / "tokenizer_config.json", _tokenizer_config(base_folder))
    write_json(out / "id_map.json", id_maps)
    state.vocabulary.save(out)


def _tokenizer_config(base_folder: Path) -> dict[str, Any]:
    """The base's settings, but read from tokenizer.json as it stands: a class such as BertTokenizer would build its own
    normaliser from the vocabulary, and drop ours in silence."""
    path = base_folder / "tokenizer_config.json"
    config: dict[str, Any] = read_json(path) if path.is_file() else {}
    return config | {"tokenizer_class": "PreTrainedTokenizerFast"}


def _prove_transformers_opens(folder: Path, merged: Tokenizer, texts: list[str]) -> None:
    import transformers
    from transformers import AutoTokenizer

    transformers.utils.logging.set_verbosity_error()  # it would warn that a text is longer than the model reads
    stock = AutoTokenizer.from_pretrained(str(folder))
    for text in texts:
        if stock(text)["input_ids"] != merged.encode(text).ids:
            raise DataError(f"merge: AutoTokenizer reads the merged tokenizer otherwise than tokenizers does, for example {text[:60]!r}")
