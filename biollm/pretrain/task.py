"""What continued pretraining trains: built alike by every process of a run, and by the stage to score it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from safetensors.torch import load_file
from torch import Tensor, nn

from biollm.core.errors import ConfigError, DataError
from biollm.core.files import make_once
from biollm.modeling.channels import FusionSpec
from biollm.modeling.corpus import TrackTable, evenly, read_records
from biollm.modeling.encoding import Encoder
from biollm.modeling.fusion import read_spec
from biollm.modeling.loading import load_config, load_model, token_capacity
from biollm.modeling.surgery import tables_of
from biollm.pretrain.config import Config
from biollm.training.examples import Example, divide_long, encode_corpus, encode_texts, open_tracks, possible_ids, with_end
from biollm.training.general import divide, read_documents
from biollm.training.language import LanguageModel
from biollm.training.objectives import AUTO_CLASSES, Objective, architecture_of, make_objective, resolve
from biollm.training.plans import RowPlan
from biollm.training.run import load_trained
from biollm.training.stored import StoredExamples, store
from biollm.training.task import Task

_DOMAIN, _GENERAL = "domain.arrow", "general.arrow"
_PART = 4096  # records that are tokenised at a time


@dataclass(frozen=True)
class Materials:
    """What a run is made of: documents to train on, general text to mix in (or none), and what is held out of both to be scored."""

    encoder: Encoder
    domain: Sequence[Example]
    general: Sequence[Example]
    held_out: dict[str, list[Example]]


def read_materials(corpus: Path, model: Path, modality: str, general_files: list[Path], config: Config, documents: Path) -> Materials:
    """Documents that fit into a row. Those to train on end with the end of text where the objective learns to stop; what is held out does
    not, so that scores are of the documents' own tokens.

    documents: the folder where those to train on are kept, tokenised; what is there is not made again.
    Raises DataError naming an empty split, or a record without a token.
    """
    encoder, stock_config, spec = Encoder(model, modality), load_config(model), read_spec(model)
    capacity = min(token_capacity(model, stock_config), config.most_document_tokens)
    stops = _objective(config, encoder, stock_config).learns_to_stop
    tracks = open_tracks(corpus, spec)

    def store_to_train_on(file: Path, parts: Iterable[list[Example]]) -> None:
        store(file, (_fit(part, capacity, encoder, stops=stops) for part in parts), fused=spec is not None)

    def write_domain(file: Path) -> None:
        records = _records(corpus, "train").iter_slices(_PART)
        store_to_train_on(file, (encode_corpus(part, encoder, spec, tracks) for part in records))

    make_once(documents / _DOMAIN, write_domain)
    validation = evenly(_records(corpus, "validation"), config.scored_documents)
    held_out = {"domain": _fit(encode_corpus(validation, encoder, spec, tracks), capacity, encoder)}
    if config.general is not None:
        rest, aside = divide(read_documents(general_files), config.general.held_out_fraction)

        def write_general(file: Path) -> None:
            texts = (list(rest.items())[i : i + _PART] for i in range(0, len(rest), _PART))
            store_to_train_on(file, (encode_texts([text for _, text in part], encoder, [name for name, _ in part], spec) for part in texts))

        if config.general.replay:
            make_once(documents / _GENERAL, write_general)
        held_out["general"] = _fit(encode_texts(list(aside.values()), encoder, list(aside), spec), capacity, encoder)
    return Materials(encoder, *_open(documents, encoder, spec, tracks), held_out)


def _records(corpus: Path, split: str) -> pl.DataFrame:
    records = read_records(corpus, split)
    if not records.height:
        raise DataError(f"the corpus has no record in its {split} split; change ingest.split")
    return records


def _fit(documents: list[Example], capacity: int, encoder: Encoder, *, stops: bool = False) -> list[Example]:
    """Documents of at most `capacity` tokens. stops: with the end of text behind the last part of each. Raises DataError naming one
    without a token."""
    for document in documents:
        if document.special.all():
            raise DataError(
                f"record {document.name} holds nothing that the tokenizer makes a token of (only spaces, or signs that are not seen), so "
                "there is nothing to learn from; expected text: remove it from the source"
            )
    ended = [with_end(document, encoder.end_id) for document in documents] if stops else documents
    return divide_long(ended, capacity, end_once=stops)


def _open(
    documents: Path, encoder: Encoder, spec: FusionSpec | None, tracks: TrackTable | None
) -> tuple[StoredExamples, Sequence[Example]]:
    """(domain, general text to mix in) that `read_materials` has stored."""
    domain, general = documents / _DOMAIN, documents / _GENERAL
    mixed_in = StoredExamples(general, encoder.ordinary_ids, spec, None) if general.exists() else []
    return StoredExamples(domain, possible_ids(encoder), spec, tracks), mixed_in


def _objective(config: Config, encoder: Encoder, stock_config: Any) -> Objective:
    return make_objective(
        config.objective,
        encoder,
        stock_config,
        config.tracks,
        mask_token=config.mask_token,
        rate=config.mask_rate,
        hidden=config.hidden_fraction,
        randomised=config.random_fraction,
        span=config.mean_span(resolve(config.objective, architecture_of(stock_config))),
    )


def make_module(model: Path, encoder: Encoder, config: Config, weights: Path | None = None) -> LanguageModel:
    """The model of a folder with its objective, and trained weights over it.

    Raises ConfigError if the model cannot learn so, or is smaller than its tokenizer.
    """
    stock_config = load_config(model)
    fused = load_model(model, AUTO_CLASSES[architecture_of(stock_config)])
    tokens, rows = encoder.tokenizer.get_vocab_size(), len(tables_of(fused.stock).input)
    if tokens > rows:
        raise ConfigError(f"{model.name}: its tokenizer has {tokens} tokens, but the model {rows} rows; run expand on the merged tokenizer")
    if config.tracks.weight:
        fused.learn_to_impute()
    else:
        fused.stop_imputing()
    objective = _objective(config, encoder, stock_config)
    if config.future_tokens and objective.name != "causal":
        raise ConfigError(
            f"pretrain.future_tokens is {config.future_tokens}, but what this {objective.architecture} learns is {objective.name} "
            f"(pretrain.objective: {config.objective}); only causal looks ahead: set future_tokens: 0, or take a decoder"
        )
    module = LanguageModel(fused, objective, config.future_tokens, config.future_weight, packed=config.packed)
    if weights is not None:
        load_trained(module, load_file(str(weights)))
    return module


def build(
    *,
    corpus: str,
    model: str,
    modality: str,
    documents: str,
    config: dict[str, Any],
    seed: int,
    weights: str | None,
    new_rows_from: int | None,
) -> Task:
    """The task of a run. documents: the folder that `read_materials` kept them in; weights: what an earlier phase trained; new_rows_from:
    train only rows of the embedding tables from this id on."""
    settings = Config(**config)
    encoder, spec = Encoder(Path(model), modality), read_spec(Path(model))
    domain, general = _open(Path(documents), encoder, spec, open_tracks(Path(corpus), spec))
    module = make_module(Path(model), encoder, settings, Path(weights) if weights else None)
    if new_rows_from is not None:
        train_only_rows(module, new_rows_from)
    if settings.gradient_checkpointing:
        module.model.stock.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    steps = settings.steps if new_rows_from is None else settings.new_rows_steps
    plan = make_plan(module, domain, general, settings, steps, seed)
    return Task(module, plan, lambda rows: module.collate([question for row in rows for question in row]))


def make_plan(
    module: LanguageModel, domain: Sequence[Example], general: Sequence[Example], config: Config, steps: int, seed: int
) -> RowPlan:
    """The rows of a run of so many steps."""
    replay = config.general.replay if config.general else 0.0
    positions = steps * config.batch_size
    return RowPlan(module.objective, domain, positions, seed, config.row_tokens, general, replay)


def train_only_rows(module: LanguageModel, first: int) -> None:
    """Leave nothing to train but the rows of the embedding tables from `first` on, and what fusion adds."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    tables = tables_of(module.model.stock)

    def only_new(gradient: Tensor) -> Tensor:
        kept = gradient.clone()
        kept[:first] = 0
        return kept

    for table in (tables.input, tables.output):
        if table is not None:
            assert isinstance(table, nn.Parameter)
            table.requires_grad_(True)
            table.register_hook(only_new)  # type: ignore[no-untyped-call]
    if module.model.operator is not None:
        module.model.operator.requires_grad_(True)
