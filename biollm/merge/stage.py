"""Merge: base tokenizer + domains into one stock tokenizer.json, proved lossless."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
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
from biollm.merge.continuation import pieces_of_new_tokens
from biollm.merge.continuation_proof import continue_unchanged
from biollm.merge.isolate import Recognition, add_domain
from biollm.merge.settings import SETTINGS, merged_settings, prove_transformers_opens
from biollm.merge.tokenizer_file import next_id
from biollm.modeling.base import normal_folder
from biollm.modeling.corpus import read_records
from biollm.modeling.domain import DomainTokenizer
from biollm.modeling.vocabulary import SIDECAR, TOKENIZER, TOKENIZER_FILES, Domain, DomainVocabulary, load_tokenizer
from tokenizers import Tokenizer

_SHOWN_RESIDUES = 60
_MANY_LINES = 0.05


@dataclass(frozen=True)
class State:
    """A tokenizer on its way from base to merged: what it is, and what its domains are."""

    json: dict[str, Any]
    vocabulary: DomainVocabulary

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_str(canonical_json(self.json))


@dataclass(frozen=True)
class Sequences:
    """A domain of sequences that was merged, with what proves it."""

    domain: Domain
    tokenizer: Tokenizer
    id_map: dict[int, int]
    held_out: list[str]


def run(job: Job[Config]) -> dict[str, Any]:
    config = job.config
    base_folder, notes = normal_folder(job.base_folder())
    before = read_json(_tokenizer_file(base_folder))
    base = _open_base(base_folder)
    settings, left_out = merged_settings(base_folder, base.tokenizer)
    notes += left_out
    switched_off = {key: before.get(key) is not None for key in ("truncation", "padding")}
    for note in [*notes, *(f"{key} is on in its tokenizer.json, and is switched off" for key, on in switched_off.items() if on)]:
        say(f"merge: the base: {note}")
    plain = _plain_lines(job)
    state, proofs, domains = base, [], []
    for section in config.domains:
        if isinstance(section, IsolateConfig):
            state, sequences, facts = _isolate(job, section, state, base.tokenizer, plain)
            proofs.append(sequences)
            _say_lines_with_sequences(facts, len(plain))
        else:
            state, facts = _continue(job, section, state, plain)
        say(f"merge: {facts['name']}: {_in_words(facts)}")
        domains.append(facts)
    _write(job.out, base_folder, state, settings, proofs)
    merged = load_tokenizer(job.out)  # what is proved is what was written
    added = set(merged.get_added_tokens_decoder()) - set(base.tokenizer.get_added_tokens_decoder())
    if added:
        raise DataError(f"merge: {len(added)} new tokens stand in added_tokens; please report the base tokenizer")
    shown = [example["text"] for facts in domains for example in facts["examples"]]
    prove_transformers_opens(job.out, merged, base_folder, base.tokenizer, [*plain[:200], *shown])
    return {
        "base_vocab_size": base.tokenizer.get_vocab_size(),
        "merged_vocab_size": merged.get_vocab_size(),
        "new_tokens": merged.get_vocab_size() - base.tokenizer.get_vocab_size(),
        "truncation_switched_off": switched_off["truncation"],
        "padding_switched_off": switched_off["padding"],
        "base_notes": notes,
        **proof.prove_base_ids(base.tokenizer, merged),
        "domains": _prove_together(job, base, state, merged, proofs, domains),
    }


def _plain_lines(job: Job[Config]) -> list[str]:
    """The text that proves that nothing else changed. Raises DataError if there is none."""
    config = job.config
    lines = proof.sample_lines([proof.read_lines(job.files(name)) for name in config.plain_text], config.plain_lines)
    if not lines:
        raise DataError(
            f"merge.plain_text: {', '.join(config.plain_text)} hold no line of text, so nothing can be proved; name other files"
        )
    if len(lines) < config.plain_lines:
        say(f"merge: proved on {len(lines):,} plain lines; merge.plain_lines asks for {config.plain_lines:,}, but plain_text holds no more")
    return lines


def _say_lines_with_sequences(facts: Mapping[str, Any], lines: int) -> None:
    if (holding := facts["lines_with_domain_sequences"]) > _MANY_LINES * lines:
        say(
            f"merge: {facts['name']}: {holding:,} of {lines:,} plain lines hold what is read as a sequence; if they are ordinary text, let "
            "fewer words count as sequences (case: upper, a larger min_run, or runs: false)"
        )


def _in_words(facts: Mapping[str, Any]) -> str:
    """One line on a domain for the user."""
    asked = facts.get("text_requested_tokens", facts["new_tokens"])
    said = f"{facts['new_tokens']} new tokens"
    if asked != facts["new_tokens"]:
        said = f"{facts['new_tokens']} of the {asked} new tokens asked for; the text holds no more"
    if facts["strategy"] == "continue":
        said += f"; {facts['lines_changed']:,} of {facts['lines']:,} plain lines hold them, {facts['violations']:,} are cut anew"
        if facts["barred_pieces"]:
            said += f" ({facts['barred_pieces']} pieces that would have cut some anew were left out)"
    return said


def _prove_together(
    job: Job[Config], base: State, state: State, merged: Tokenizer, proofs: Sequence[Sequences], domains: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """All domains and random strings on the tokenizer as it was written: a later domain must leave the earlier ones as they were."""
    written = read_json(job.out / TOKENIZER)
    proved = {}
    for one in proofs:
        earlier = [domain for domain in state.vocabulary.isolated if domain.first_id < one.domain.first_id]
        found = proof.prove_domain(one.domain, one.tokenizer, written, one.id_map, one.held_out, earlier)
        proved[one.domain.first_id] = found
        _say_shared_letters(one.domain, earlier, found)
    words = {i for domain in state.vocabulary.domains if domain.strategy == "continue" for i in domain.ids}
    as_base = written["model"]["type"] == "BPE"  # new words of other bases may cut text anew
    pieces = pieces_of_new_tokens(base.json, state.json, words) if as_base else None
    rng = generator(job.seed, "merge", "random strings")
    strings = proof.prove_random_strings(base.tokenizer, merged, state.vocabulary, job.config.random_strings, rng, pieces)
    return [facts | proved.get(facts["first_id"], {}) | strings for facts in domains]


def _say_shared_letters(domain: Domain, earlier: Sequence[Domain], found: Mapping[str, Any]) -> None:
    if shared := found["runs_of_earlier_domains"]:
        name, others = domain.modality, " or ".join(other.modality for other in earlier if other.min_run)
        remedy = f"between <{name}> and </{name}> they are {name}" if domain.tags else "set tags: true, so that texts can mark them"
        say(
            f"merge: {name}: {shared:,} of {found['sequences']:,} held-out sequences are written in letters of {others} alone; bare in a "
            f"text they are read as {others}, which was merged before; {remedy}"
        )


def _isolate(
    job: Job[Config], section: IsolateConfig, state: State, base: Tokenizer, plain: list[str]
) -> tuple[State, Sequences, dict[str, Any]]:
    """One domain of sequences more: the merged tokenizer, what proves it, and what was proved so far."""
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
    if section.tags:
        _check_tags(base, modality)
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
        **_learnt(folder),
        **proof.prove_plain_text(state.tokenizer, merged.tokenizer, vocabulary, plain),
        **proof.prove_reachable(added, merged.tokenizer),
        **proof.describe_base(base, sequences),
        "examples": proof.examples(base, merged.tokenizer, added, _shown(added, state.vocabulary.isolated, sequences)),
    }
    return merged, Sequences(added, domain.tokenizer, id_map, sequences), facts


def _check_tags(base: Tokenizer, modality: str) -> None:
    """Raise ConfigError if the base has a tag as a token of its own: it would be cut out before the rules for tags see the text."""
    tags = (f"<{modality}>", f"</{modality}>")
    added = [token.content for token in base.get_added_tokens_decoder().values() if not token.normalized]
    own = [token for token in added if any(token in tag for tag in tags)]
    if own:
        raise ConfigError(
            f"merge: the base tokenizer has {own[0]!r} as an added token, which is cut out of a text before sequences between "
            f"{tags[0]} and {tags[1]} are looked for; set tags: false for this domain, or remove the token from the base's tokenizer.json"
        )


def _learnt(folder: Path) -> dict[str, Any]:
    """What a domain tokenizer's manifest says of its training, if it has one."""
    manifest = folder / "manifest.json"
    facts = read_json(manifest).get("facts", {}) if manifest.is_file() else {}
    return {"learnt_tokens": facts.get("vocab_size"), "unused_in_training": facts.get("tokens_unused_in_train")}


def _continue(job: Job[Config], section: ContinueConfig, state: State, plain: list[str]) -> tuple[State, dict[str, Any]]:
    """One domain of words more: the merged tokenizer, and what was proved."""
    text = proof.read_lines(file for name in section.text for file in job.files(name))
    sealed = [i for other in state.vocabulary.isolated for i in other.ids]  # a sequence in the text keeps its tokens
    continued, proved = continue_unchanged(state.json, text, section.new_tokens, section.min_count, plain, sealed=sealed)
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
        **proved,
        "examples": proof.examples(before, after, domain, proof.sample_lines([changed], 10)),
    }
    return merged, facts


def _describe(domain: Domain) -> dict[str, Any]:
    return domain.model_dump(include={"name", "strategy", "modality", "kind", "new_tokens", "scaffold_tokens", "first_id"})


def _held_out(job: Job[Config], section: IsolateConfig, domain: DomainTokenizer) -> list[str]:
    """Sequences that the domain tokenizer was not trained on: of the corpus if it was trained on that, else those that it brings along."""
    if section.tokenizer is None and job.facts_of("tokenizer")["source"] == "ingest":
        return read_records(job.input("ingest"), "validation")["sequence"].to_list()
    return [domain.normal(sequence) for sequence in domain.probe]


def _shown(domain: Domain, earlier: Sequence[Domain], sequences: Sequence[str]) -> list[str]:
    """The beginnings of some sequences as a text holds them: bare where that is read as one of this domain, else between tags."""
    heads = [sequence[:_SHOWN_RESIDUES] for sequence in sequences[: proof.EXAMPLES]]
    others = proof.runs_of_others(domain, earlier, heads) if domain.tags else set()
    bare = {head for head in heads if domain.min_run and head not in others}
    return [head if head in bare else f"<{domain.modality}>{head}</{domain.modality}>" for head in heads]


def _open_base(folder: Path) -> State:
    """The base tokenizer, which may itself be a merged one, without truncation and padding."""
    tokenizer = load_tokenizer(folder)
    content = json.loads(tokenizer.to_str())
    vocabulary = DomainVocabulary.load(folder) or DomainVocabulary(base_vocab_size=next_id(content), domains=[])
    return State(content, vocabulary)


def _tokenizer_file(folder: Path) -> Path:
    load_tokenizer(folder)  # says what is wrong with it
    return folder / TOKENIZER


def _write(out: Path, base_folder: Path, state: State, settings: dict[str, Any], proofs: Sequence[Sequences]) -> None:
    for name in TOKENIZER_FILES:
        if (base_folder / name).is_file() and name not in (TOKENIZER, SIDECAR):
            shutil.copyfile(base_folder / name, out / name)
    shutil.copyfile(base_folder / TOKENIZER, out / "base_tokenizer.json")
    state.tokenizer.save(str(out / TOKENIZER))
    write_json(out / SETTINGS, settings)
    write_json(out / "id_map.json", {one.domain.name: {str(old): new for old, new in one.id_map.items()} for one in proofs})
    state.vocabulary.save(out)
