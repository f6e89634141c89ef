"""Expand: base model + merged tokenizer into a model folder, with fusion if the recipe asks for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from biollm.core.alphabets import stands_on
from biollm.core.errors import ConfigError, DataError
from biollm.core.job import Job
from biollm.core.model_card import write_model_card
from biollm.core.progress import say
from biollm.core.resources import resolve_folder
from biollm.core.seeding import derive_seed, generator
from biollm.expand.config import ChannelConfig, Config, FusionConfig
from biollm.modeling.base import normal_folder
from biollm.modeling.channels import FusionSpec, describe_channel, on_strand
from biollm.modeling.corpus import ROW, TrackTable, evenly, read_records
from biollm.modeling.distill import CONTEXT_TOKENS, Context, Teacher, contexts_of
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import FusedModel, attach_fusion, read_spec
from biollm.modeling.inits import Donor, InitName, NewTokens, Table, initialise, table_of
from biollm.modeling.loading import copy_tokenizer, load_config, load_stock, save_model, store_as_in, tensors_beside, token_capacity
from biollm.modeling.shards import Stored, Which, expand_shards, read_checkpoint
from biollm.modeling.surgery import MATRICES, describe_architecture, resize, table_named, tables_of
from biollm.modeling.tracks import FloatArray, TrackConfig
from biollm.modeling.vocabulary import DomainVocabulary, base_pieces, load_tokenizer, readable_texts, unknown_id
from biollm.training.batches import pad_examples
from biollm.training.config import ObjectiveName
from biollm.training.examples import Example, check_lengths, encode_corpus, encode_texts, open_tracks
from biollm.training.language import LanguageModel, LanguageScore, score_language, train_briefly
from biollm.training.objectives import AUTO_CLASSES, Architecture, architecture_of, make_objective
from tokenizers import Tokenizer

_DISTILL_RECORDS = 2000
_CHECKED_ROWS = 1 << 12  # of a table on disk, in memory at once
# Of all letters, those that the base cannot read but the merged tokenizer can. A rare sign in a text says little of the loss; with
# more of them the base would look better than it is, since an unknown token stands for letters that it need not tell apart.
_UNKNOWN_SHARE = 0.01
# What the loss of each kind of model is measured by. (An encoder-decoder need not have sentinels to go on with a document.)
_SCORED_BY: dict[Architecture, ObjectiveName] = {"encoder": "masked", "decoder": "causal", "encoder-decoder": "prefix"}


@dataclass(frozen=True)
class Plan:
    """What a stage run is about: the base, the merged tokenizer, the new tokens, and the sequences at hand."""

    job: Job[Config]
    base: Path
    encoder: Encoder
    tokens: NewTokens
    architecture: Architecture
    objective: ObjectiveName
    held_out: pl.DataFrame | None

    def load(self) -> nn.Module:
        """The base model. Parts that it lacks (a sentence encoder has no language-model head) are drawn from our seed."""
        torch.manual_seed(derive_seed(self.job.seed, "expand", "head"))
        return load_stock(self.base, AUTO_CLASSES[self.architecture]).eval()

    def language_model(self, stock: nn.Module, encoder: Encoder) -> LanguageModel:
        """A model with the objective that it was pretrained for; an encoder-decoder goes on with a document that it read in part."""
        return LanguageModel(FusedModel(stock), make_objective(self.objective, encoder, stock.config))

    def new_rows(self, init: InitName, which: Which, base: Table, teacher: Teacher | None) -> NDArray[np.float32]:
        """Rows of the new tokens, (N, D), from a table of the base; a donor gives its table of the same kind."""
        config = self.job.config
        donor = None
        if config.donor and init == "omp":
            folder = resolve_folder(config.donor, self.job.recipe_folder)
            texts = _texts_of(folder)
            donor = Donor(_table_on_disk(folder, which, len(texts)), texts)
        rows: NDArray[np.float32] = initialise(init, base, self.tokens, generator(self.job.seed, "expand", init), donor, teacher)
        return rows


def run(job: Job[Config]) -> dict[str, Any]:
    config = job.config
    plan, notes = _plan(job)
    for note in notes:
        say(f"expand: the base: {note}")
    say(f"expand: {len(plan.tokens.texts)} new rows from '{config.init}', objective {plan.objective}")
    done = _expand_on_disk(plan) if config.in_place_shards else _expand_in_memory(plan)
    facts = {
        "objective": plan.objective,
        "init": config.init,
        "old_rows": len(plan.tokens.base_texts),
        "new_rows": len(plan.tokens.texts),
        "old_rows_bit_equal": True,  # checked in the saved folder; raises otherwise
        "base_notes": notes,
        **done,
    }
    write_model_card(job.out, "expand", job, facts, made_from=job.base_folder())
    return facts


def _plan(job: Job[Config]) -> tuple[Plan, list[str]]:
    merge_folder = job.input("merge")
    base, notes = normal_folder(job.base_folder())
    _check_fusion(base, job.config)
    encoder = Encoder(merge_folder, job.facts_of("ingest")["modality"] if "ingest" in job.inputs else None)
    held_out = None
    if "ingest" in job.inputs:
        held_out = evenly(read_records(job.input("ingest"), "validation"), job.config.held_out_records)
    architecture = architecture_of(load_config(base))
    return Plan(job, base, encoder, _new_tokens(encoder, base), architecture, _SCORED_BY[architecture], held_out), notes


def _check_fusion(base: Path, config: Config) -> None:
    """Raise ConfigError if the base is fused and its fusion cannot be carried over."""
    spec = read_spec(base)
    if spec is None:
        return
    channels = ", ".join(spec.channel_names)
    if config.fusion is not None:
        raise ConfigError(
            f"expand.fusion: the base {base} is fused already, with {channels}, and a model has one fusion; leave expand.fusion out to "
            "keep the base's, or name a copy of the base without fusion.json and fusion.safetensors"
        )
    if config.in_place_shards:
        raise ConfigError(
            f"expand.in_place_shards: the base {base} is fused, with {channels}, and its fusion is kept by loading the model; leave "
            "in_place_shards out"
        )


def _new_tokens(encoder: Encoder, base: Path) -> NewTokens:
    """Text and base tokens of every new token. Residues are read by the base as the text that they are to it, words in their place."""
    vocabulary = encoder.vocabulary
    assert vocabulary is not None, "a merge artifact has a domain vocabulary"
    tokenizer = load_tokenizer(base)
    known = tokenizer.get_vocab_size()
    # a base that was itself merged has domains already, and its user may have added tokens behind them: all are base tokens now
    texts = {i: text for i, text in _domain_texts(vocabulary, encoder.tokenizer) if i >= known}
    assert list(texts) == list(range(known, known + len(texts))), "a merge appends its tokens to those of the base"
    encoded = tokenizer.encode_batch(list(texts.values()), add_special_tokens=False)
    pieces = {i: own.ids for i, own in zip(texts, encoded, strict=True)}
    words = [i for domain in vocabulary.domains if domain.strategy == "continue" for i in domain.ids if i >= known]
    pieces |= zip(words, base_pieces(tokenizer, [str(encoder.tokenizer.id_to_token(i)) for i in words]), strict=True)
    return NewTokens(list(texts.values()), list(pieces.values()), readable_texts(tokenizer))


def _domain_texts(vocabulary: DomainVocabulary, tokenizer: Tokenizer) -> Iterator[tuple[int, str]]:
    """Id and readable text of every token of the domains. Between those of two merges there may be ids of other tokens."""
    numbers = (i for domain in vocabulary.domains for i in domain.ids)
    return zip(numbers, vocabulary.readable(tokenizer), strict=True)


def _texts_of(folder: Path) -> list[str]:
    """The readable text of every token of a model folder, also of one that biollm expanded."""
    tokenizer, vocabulary = load_tokenizer(folder), DomainVocabulary.load(folder)
    texts = readable_texts(tokenizer)
    if vocabulary is not None:
        for i, text in _domain_texts(vocabulary, tokenizer):
            texts[i] = text
    return texts


# --- with the model in memory --------------------------------------------------------------------------------------------------


def _expand_in_memory(plan: Plan) -> dict[str, Any]:
    job, config = plan.job, plan.job.config
    comparison = _compare(plan) if config.compare_inits else None
    stock = plan.load()
    carried = attach_fusion(stock, plan.base)  # here, since it checks that the fusion is of these embeddings
    rows_before, width = tables_of(stock).input.shape
    of_base = _rows_of_tables(stock, len(plan.tokens.base_texts))
    scores: dict[str, LanguageScore] = {}
    if plan.held_out is not None:
        scores |= _score_base(plan, stock)
    output = _grow(plan, stock, config.init)
    if plan.held_out is not None:
        scores[config.init] = _score(plan, stock, config.init)
        say(f"expand: held-out loss right after {config.init}: {scores[config.init].bits_per_base:.3f} bits per residue")

    torch.manual_seed(derive_seed(job.seed, "expand", "fusion"))
    model = carried
    fusion_facts = None if carried.spec is None else _describe_fusion(carried.spec) | {"of_base": True}
    if config.fusion is not None:
        assert plan.held_out is not None, "the recipe was checked for a corpus"
        spec = _fusion_spec(job, config.fusion, width, plan.architecture == "decoder")
        model = FusedModel(stock, spec)
        difference = _step0_difference(model, _some_with_tracks(plan, spec), plan.encoder)
        fusion_facts = _describe_fusion(spec) | {"step0_max_difference": difference}
    store_as_in(stock, plan.base)
    beside, stale = tensors_beside(plan.base, stock)
    for name in stale:
        say(f"expand: left out: {name} has one row per token of the base, but is no part of a {type(stock).__name__}")
    save_model(model, job.out, job.input("merge"), beside)
    tables = tables_of(stock)
    # a head that the base lacks was drawn in float32, and is rounded to the base's format as new rows are
    of_base = {name: rows.to(table_named(stock, name).dtype).float() for name, rows in of_base.items()}
    _check_saved(plan, job.out, of_base, output.to(tables.input.dtype).float())
    added = (len(tables.input) - rows_before) * width * (1 if tables.output is None else 2)
    return {
        "held_out_records": 0 if plan.held_out is None else plan.held_out.height,
        "held_out_loss_nats": {name: score.nats_per_token for name, score in scores.items()},
        "held_out_bits_per_base": {name: score.bits_per_base for name, score in scores.items()},
        "comparison": comparison,
        "rows": len(tables.input),
        "tied": tables.output is None,
        "parameters_added": added,
        "megabytes_added": added * tables.input.element_size() / 1e6,
        "fusion": fusion_facts,
    }


def _describe_fusion(spec: FusionSpec) -> dict[str, Any]:
    return {"operator": spec.operator, "channels": spec.channel_names}


def _grow(plan: Plan, stock: nn.Module, init: InitName) -> Tensor:
    """Resize a loaded base in place with rows from an initialiser; returns the rows of the input table."""
    tables = tables_of(stock)
    known = len(plan.tokens.base_texts)
    teacher = Teacher(stock, _contexts(plan, stock)) if init == "distill" else None
    rows = torch.from_numpy(plan.new_rows(init, "input", table_of(tables.input.detach()[:known].float().numpy()), teacher))
    output = None
    if tables.output is not None:
        # hidden states say nothing about an output row: where the input is learnt from them, the output starts from its own pieces
        own: InitName = "mix" if init == "distill" else init
        output = torch.from_numpy(plan.new_rows(own, "output", table_of(tables.output.detach()[:known].float().numpy()), None))
    resize(stock, plan.encoder.tokenizer.get_vocab_size(), rows, pad_to_multiple=plan.job.config.pad_to_multiple, new_output_rows_ND=output)
    return rows


def _score(plan: Plan, stock: nn.Module, init: str) -> LanguageScore:
    assert plan.held_out is not None
    module = plan.language_model(stock, plan.encoder)
    score = score_language(module, _readable_examples(plan, stock, plan.held_out), plan.job.seed, f"held-out loss, init {init}")
    module.release()
    return score


def _readable_examples(plan: Plan, stock: nn.Module, records: pl.DataFrame) -> list[Example]:
    """Records as the merged tokenizer reads them. Raises DataError if the model could only read one cut."""
    examples = encode_corpus(records, plan.encoder, None)
    check_lengths(examples, token_capacity(plan.base, stock.config))
    return examples


def _score_base(plan: Plan, stock: nn.Module) -> dict[str, LanguageScore]:
    """The honest row: the base as it is, with no new tokens; none if it cannot read the sequences."""
    assert plan.held_out is not None
    encoder = Encoder(plan.base)
    examples = encode_texts(plan.held_out["sequence"].to_list(), encoder)
    if why := _why_unreadable(plan, encoder, stock, examples, plan.held_out):
        say(f"expand: no held-out loss of the base as it is: {why}")
        return {}
    module = plan.language_model(stock, encoder)
    score = score_language(module, examples, plan.job.seed, "held-out loss, no new tokens")
    module.release()
    return {"no new tokens": score}


def _why_unreadable(plan: Plan, encoder: Encoder, stock: nn.Module, examples: list[Example], records: pl.DataFrame) -> str | None:
    """Why the loss of the base itself on records would say nothing, or None. examples: the records as the base's encoder reads them."""
    if (unknown := _unknown_share(encoder, examples)) > _UNKNOWN_SHARE:
        merged = _unknown_share(plan.encoder, encode_corpus(records, plan.encoder, None))
        if unknown - merged > _UNKNOWN_SHARE:
            return f"the base reads {unknown:.0%} of the letters as unknown tokens, the merged tokenizer {merged:.0%}"
    longest, capacity = max(len(example.ids) for example in examples), token_capacity(plan.base, stock.config)
    return f"the sequences have up to {longest} tokens, but the base reads {capacity}" if longest > capacity else None


def _unknown_share(encoder: Encoder, examples: list[Example]) -> float:
    """Of the letters behind all tokens, those behind unknown ones."""
    number = unknown_id(encoder.tokenizer)
    unknown = sum(int(example.residues[example.ids == number].sum()) for example in examples)
    return unknown / max(1, sum(int(example.residues.sum()) for example in examples))


def _compare(plan: Plan) -> dict[str, Any]:
    """Every initialiser, and no new tokens at all: held-out bits per residue at step 0 and after a short training."""
    steps, seed = plan.job.config.compare_steps, plan.job.seed
    assert plan.held_out is not None, "the recipe was checked for it"
    train = read_records(plan.job.input("ingest"), "train")
    rows = []
    for name in ("no new tokens", *get_args(InitName)):
        stock = plan.load()
        if name == "no new tokens":
            encoder = Encoder(plan.base)
            held_out, examples = (encode_texts(records["sequence"].to_list(), encoder) for records in (plan.held_out, train))
            if why := _why_unreadable(plan, encoder, stock, [*held_out, *examples], pl.concat([plan.held_out, train])):
                rows.append({"init": name, "step0": None, "after": None, "why": why})
                say(f"expand: {name:14} no loss, as {why}")
                continue
        else:
            encoder = plan.encoder
            _grow(plan, stock, name)
            held_out, examples = _readable_examples(plan, stock, plan.held_out), _readable_examples(plan, stock, train)
        module = plan.language_model(stock, encoder)
        before = score_language(module, held_out, seed, f"{name}, step 0")
        train_briefly(module, examples, steps, seed, f"{name}, {steps} steps")
        after = score_language(module, held_out, seed, f"{name}, after {steps} steps")
        rows.append({"init": name, "step0": before.bits_per_base, "after": after.bits_per_base})
        say(f"expand: {name:14} {before.bits_per_base:8.3f} bits per residue, after {steps} steps {after.bits_per_base:8.3f}")
    return {"steps": steps, "rows": rows}


def _contexts(plan: Plan, stock: nn.Module) -> list[Context]:
    """Training sequences in base tokens, in parts that the base reads at once, with the spans that are new tokens."""
    records = evenly(read_records(plan.job.input("ingest"), "train"), _DISTILL_RECORDS)
    encoded = [row.ids.tolist() for row in plan.encoder.encode_sequences(records["sequence"].to_list())]
    base = Encoder(plan.base)
    around = base.prefix.tolist(), base.suffix.tolist()
    most = min(CONTEXT_TOKENS, token_capacity(plan.base, stock.config))
    return contexts_of(encoded, plan.tokens.pieces, len(plan.tokens.base_texts), around, most)


# --- on disk -------------------------------------------------------------------------------------------------------------------


def _expand_on_disk(plan: Plan) -> dict[str, Any]:
    """The same, shard by shard: only the tables are read, in blocks. What needs the model (its loss) is not measured."""
    job, known = plan.job, len(plan.tokens.base_texts)
    init = job.config.init
    rows = plan.new_rows(init, "input", _table_on_disk(plan.base, "input", known), None)
    output = plan.new_rows(init, "output", _table_on_disk(plan.base, "output", known), None) if _untied(plan.base) else None
    facts = expand_shards(
        plan.base,
        job.out,
        rows,
        plan.encoder.tokenizer.get_vocab_size(),
        new_output_rows_ND=output,
        pad_to_multiple=job.config.pad_to_multiple,
    )
    copy_tokenizer(job.input("merge"), job.out)
    _check_written(plan)
    widths = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8}
    tables = [table for table in facts["tables"] if table["role"] in MATRICES]
    grown = facts["rows"] - tables[0]["rows_before"]
    return {
        "held_out_records": 0,
        "held_out_loss_nats": {},
        "held_out_bits_per_base": {},
        "comparison": None,
        "rows": facts["rows"],
        "tied": facts["tied"],
        "parameters_added": grown * rows.shape[1] * len(tables),
        "megabytes_added": sum(grown * rows.shape[1] * widths[table["dtype"]] for table in tables) / 1e6,
        "shards": facts,
        "fusion": None,
    }


def _untied(folder: Path) -> bool:
    return not read_checkpoint(folder).tied


def _table_on_disk(folder: Path, which: Which, rows: int) -> Table:
    """The first rows of a table of a model folder, without loading the model."""
    stored = read_checkpoint(folder).table(which)
    return Table(rows, stored.shape[1], stored.read_rows)


def _check_written(plan: Plan) -> None:
    """Old rows are bit-equal in the new files, and every tensor has the shape that transformers expects (nothing is loaded)."""
    known = len(plan.tokens.base_texts)
    before, after = (read_checkpoint(folder).tables for folder in (plan.base, plan.job.out))
    if changed := [key for key, (old, _) in before.items() if not _same_rows(old, after[key][0], known)]:
        raise DataError(
            f"expand: rows of base tokens changed in the shards: {', '.join(changed)}; nothing was kept. Please report this base model"
        )
    try:
        load_stock(plan.job.out, AUTO_CLASSES[plan.architecture], device_map="meta")
    except RuntimeError as error:
        raise DataError(
            f"expand: transformers cannot load the grown shards: {error}; nothing was kept. Please report this base model"
        ) from error


def _same_rows(old: Stored, new: Stored, rows: int) -> bool:
    """Whether the first rows of two stored tables are the same, read in blocks."""
    blocks = ((first, min(rows, first + _CHECKED_ROWS)) for first in range(0, rows, _CHECKED_ROWS))
    return all(np.array_equal(old.read_rows(*block), new.read_rows(*block)) for block in blocks)


# --- fusion, and the last check ------------------------------------------------------------------------------------------------


def _fusion_spec(job: Job[Config], fusion: FusionConfig, hidden_size: int, one_way: bool) -> FusionSpec:
    computed = {t["name"]: TrackConfig.model_validate(t) for t in job.facts_of("ingest")["tracks"]}
    table = TrackTable(job.input("ingest"), [channel.track for channel in fusion.channels])
    train = read_records(job.input("ingest"), "train")
    return FusionSpec(
        operator=fusion.operator,
        values=fusion.values,
        value_width=fusion.value_width,
        neighbours=fusion.neighbours,
        channels=[
            describe_channel(
                c.track,
                *_values(table, train, c),
                strand=c.strand,
                computed=computed.get(c.track),
                is_share=_is_share(table, c, c.track in computed),
                cytosines=c.track not in computed and job.facts_of("ingest")["modality"] == "dna" and _on_cytosines(table, train, c.track),
            )
            for c in fusion.channels
        ],
        hidden_size=hidden_size,
        one_way=one_way,
    )


def _values(table: TrackTable, train: pl.DataFrame, channel: ChannelConfig) -> tuple[FloatArray, FloatArray | None]:
    """Levels and coverages of the train split that a channel sees."""
    sequences = train["sequence"]
    return table.sample(train[ROW].to_list(), channel.track, seen=lambda i, track: on_strand(track, sequences[i], channel.strand))


def _on_cytosines(table: TrackTable, train: pl.DataFrame, track: str) -> bool:
    """Whether no A or T of the train split has a value."""
    sequences = train["sequence"]

    return not len(table.sample(train[ROW].to_list(), track, seen=lambda i, values: values.only(stands_on(sequences[i], "AT")))[0])


def _is_share(table: TrackTable, channel: ChannelConfig, computed: bool) -> bool:
    """Whether a channel holds shares: as the recipe says, or as all records' values look, since one outside would be refused later on."""
    low, high = table.range_of(channel.track)
    looks = bool(low >= 0 and high <= 1)
    if channel.share and not looks:
        raise ConfigError(
            f"expand.fusion.channels: '{channel.track}' is to hold shares, but its values reach from {low:g} to {high:g}; divide percent "
            "by 100, or set share: false"
        )
    return not computed and (looks if channel.share is None else channel.share)


def _some_with_tracks(plan: Plan, spec: FusionSpec) -> list[Example]:
    assert plan.held_out is not None, "fusion needs a corpus"
    return encode_corpus(plan.held_out.head(16), plan.encoder, spec, open_tracks(plan.job.input("ingest"), spec))


def _step0_difference(model: FusedModel, examples: list[Example], encoder: Encoder) -> float:
    """The largest difference that the tracks make before training. Anything but 0.0 would mean that fusion changed the base."""
    batch = pad_examples(examples, encoder.pad_id or 0)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    config: Any = model.stock.config
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.full((len(examples), 1), config.decoder_start_token_id or 0)
    with torch.no_grad():
        fused, plain = model(features=batch["features"], **inputs).logits, model(**inputs).logits
    difference = float((fused - plain).abs().max())
    if difference != 0.0 or not math.isfinite(difference):
        raise DataError(f"expand: fusion changes the model's output by {difference} before any training; please report this base model")
    return difference


def _rows_of_tables(model: nn.Module, rows: int) -> dict[str, Tensor]:
    """Copies of what each vocabulary table of a model holds for its first tokens, by the table's name; of tied tables one copy."""
    found: dict[str, Tensor] = {}
    copies: dict[int, Tensor] = {}
    for name, role in describe_architecture(type(model), model.config).tables.items():
        table = table_named(model, name)
        if id(table) not in copies:
            held = table.detach()
            copies[id(table)] = (held[:, :rows] if role == "offset" else held[:rows]).clone()
        found[name] = copies[id(table)]
    return found


def _check_saved(plan: Plan, folder: Path, of_base: dict[str, Tensor], new_rows: Tensor) -> None:
    """Open what was written again: old rows of every table bit-equal, new rows finite and those of the chosen initialiser."""
    saved = load_stock(folder, AUTO_CLASSES[plan.architecture])
    known, size = len(plan.tokens.base_texts), plan.encoder.tokenizer.get_vocab_size()
    assert torch.equal(tables_of(saved).input.detach()[known:size], new_rows), "the saved rows are those of another initialiser"
    now = _rows_of_tables(saved, known)
    if changed := [name for name, rows in of_base.items() if not torch.equal(now[name].float(), rows)]:
        raise DataError(
            f"expand: rows of base tokens changed in the saved model: {', '.join(changed)}; nothing was kept. Please report this base model"
        )
    if not all(torch.isfinite(table_named(saved, name)).all() for name in of_base):
        raise DataError("expand: new rows of the saved model are not finite; try another expand.init")
