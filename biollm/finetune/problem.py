"""What a task asks of the corpus: its records with their answers, checked before anything is trained.

Legend: T tokens of a document, R residues or bytes of it, U residues or words with a class of their own, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from biollm.core.errors import ConfigError, DataError, listed
from biollm.core.progress import say
from biollm.corpus.columns import COVARIATE, SPLITS
from biollm.finetune.config import Config, TaskName, prompt_tokens
from biollm.finetune.conversations import MESSAGES, ChatTemplate, check_writes, encode_conversations
from biollm.finetune.labels import (
    FloatArray,
    balanced_weights,
    check_classes,
    check_yes_no,
    class_names,
    class_numbers,
    classes_of,
    label_column,
    numbers_of,
    residue_units,
    token_classes,
    unit_classes,
    yes_no_matrix,
)
from biollm.modeling.corpus import read_records
from biollm.modeling.encoding import Encoder, IntArray
from biollm.modeling.fusion import read_spec
from biollm.modeling.loading import load_config, token_capacity
from biollm.training.examples import Example, check_lengths, encode_corpus, open_tracks
from biollm.training.objectives import IGNORED, architecture_of
from biollm.training.supervised import Labelled, LossName

_CAUSAL = "AutoModelForCausalLM"


@dataclass(frozen=True)
class Problem:
    """A question and its possible answers. names: classes in order, or labels, or the one value's label; none for conversations.

    weights: see SupervisedModel; mean, scale: of values in the train split; frequencies: (C,) of classes there, or of each label's yes.
    """

    task: TaskName
    names: list[str] = field(default_factory=list)
    weights: FloatArray | None = None
    frequencies: FloatArray | None = None
    mean: float = 0.0
    scale: float = 1.0
    by_word: bool = False

    @property
    def kind(self) -> str:
        """The transformers Auto class of models that answer."""
        kinds = {"instruction": _CAUSAL, "token_classification": "AutoModelForTokenClassification"}
        return kinds.get(self.task, "AutoModelForSequenceClassification")

    @property
    def loss(self) -> LossName:
        losses: dict[str, LossName] = {"multilabel": "labels", "regression": "value"}
        return losses.get(self.task, "classes")

    @property
    def model_options(self) -> dict[str, Any]:
        """What from_pretrained must be told to make the output layer."""
        if self.task == "instruction":
            return {}
        kinds = {"multilabel": "multi_label_classification", "regression": "regression"}
        return {
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: number for number, name in enumerate(self.names)},
            "problem_type": kinds.get(self.task, "single_label_classification"),
        }

    def facts(self) -> dict[str, Any]:
        """What a reader of the model's outputs needs to know."""
        told: dict[str, Any] = {"task": self.task}
        if self.names:
            told["classes" if self.loss == "classes" else "labels"] = self.names
        if self.task == "regression":
            told |= {"mean": self.mean, "scale": self.scale}
        if self.task == "token_classification":
            told["classes_of"] = "words" if self.by_word else "residues"
        return told


@dataclass(frozen=True)
class Units:
    """The residues or words of a record. of_residue: (R,) see labels.residue_units; classes: (U,), IGNORED where none is known."""

    of_residue: IntArray
    classes: IntArray


@dataclass(frozen=True)
class Materials:
    """What a run is made of, by split. units: beside the examples of token_classification. pad_id: what padding is written with."""

    encoder: Encoder
    problem: Problem
    ids: dict[str, list[str]]
    examples: dict[str, list[Example]]
    units: dict[str, list[Units]]
    pad_id: int
    template: ChatTemplate | None = None


def read_materials(corpus: Path, model: Path, modality: str, config: Config) -> Materials:
    """The records that have an answer, in the order of the corpus, with the answers.

    Raises DataError naming records or columns: without a train or validation split, with answers that the task does not know, too long
    for the model; ConfigError if the model is of no use for the task.
    """
    encoder, stock_config = Encoder(model, modality), load_config(model)
    records, units = read_records(corpus), list[Units]()
    template = None
    if config.task == "instruction":
        check_writes(stock_config)
        records = _with_answers(records, [MESSAGES]) if MESSAGES in records.columns else records.clear()
        _check_splits(records, "a conversation (read.format: chat)")
        template = ChatTemplate(model)
        problem, examples = Problem("instruction"), list[Example](encode_conversations(records, encoder, template))
    else:
        columns = [label_column(records, name) for name in config.label_names]
        records = _with_answers(records, columns)
        _check_splits(records, f"a value in {listed(columns)}")
        spec = read_spec(model)
        examples = encode_corpus(records, encoder, spec, open_tracks(corpus, spec))
        if config.task == "token_classification":
            problem, examples, units = _token_problem(records, columns[0], examples, config, by_word=modality == "text")
        else:
            problem, answers = _record_problem(records, columns, config)
            if config.pair is not None:
                examples = _joined(records, examples, encoder, config.pair, getattr(stock_config, "type_vocab_size", 1) > 1)
            examples = [_labelled(example, answer) for example, answer in zip(examples, answers, strict=True)]
    check_lengths(examples, token_capacity(model, stock_config) - max(map(prompt_tokens, config.methods)))
    places = {split: np.flatnonzero((records["split"] == split).to_numpy()).tolist() for split in SPLITS}
    return Materials(
        encoder=encoder,
        problem=problem,
        ids={split: records["id"].gather(where).to_list() for split, where in places.items()},
        examples={split: [examples[i] for i in where] for split, where in places.items()},
        units={split: [units[i] for i in where] for split, where in places.items()} if units else {},
        pad_id=_padding(encoder, stock_config, examples, problem),
        template=template,
    )


def _with_answers(records: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    return records.filter(pl.any_horizontal(pl.col(column).is_not_null() for column in columns))


def _check_splits(records: pl.DataFrame, what: str) -> None:
    for split in ("train", "validation"):
        if not (records["split"] == split).any():
            raise DataError(f"finetune: no record of the {split} split has {what}; bring more data, or change ingest.split")


def _is_train(records: pl.DataFrame) -> NDArray[np.bool_]:
    return np.asarray((records["split"] == "train").to_numpy())


def _record_problem(records: pl.DataFrame, columns: list[str], config: Config) -> tuple[Problem, NDArray[Any]]:
    """A problem with one answer for each record, and the answers as in Labelled."""
    train, balanced = _is_train(records), config.class_weights == "balanced"
    if config.task == "multilabel":
        matrix = yes_no_matrix(records, columns)
        check_yes_no(matrix[train], columns)
        yes, no = (matrix[train] == 1).sum(axis=0), (matrix[train] == 0).sum(axis=0)
        weights = balanced_weights(np.stack([no, yes], axis=1)).T if balanced else None
        return Problem(config.task, list(config.labels), weights, (yes / (yes + no)).astype(np.float32)), matrix
    if config.task == "regression":
        values = numbers_of(records, columns[0])
        mean, scale = float(values[train].mean()), float(values[train].std())
        if scale == 0:
            raise DataError(f"{columns[0]}: all {int(train.sum())} values of the train split are {mean:g}; there is nothing to learn")
        return Problem(config.task, [config.label], mean=mean, scale=scale), ((values - mean) / scale).astype(np.float32)
    classes = classes_of(records, columns[0])
    names = config.class_names or class_names(classes)
    numbers = class_numbers(records["id"].to_list(), classes.to_list(), names, columns[0])
    check_classes(numbers[train], names, columns[0])
    return _class_problem(config, names, numbers[train]), numbers


def _token_problem(
    records: pl.DataFrame, column: str, examples: list[Example], config: Config, by_word: bool
) -> tuple[Problem, list[Example], list[Units]]:
    """A problem with one answer for each token, and what is known of each residue or word."""
    unit, ids = "word" if by_word else "residue", records["id"].to_list()
    if records[column].dtype.is_numeric():
        raise DataError(
            f"{column} holds numbers; task: token_classification expects a class for each {unit} of a record: letters, "
            "or words with spaces between (digits alone are read as one number)"
        )
    classes = [unit_classes(value, by_word) for value in records[column].to_list()]
    layouts = [residue_units(text, by_word) for text in records["sequence"].to_list()]
    for name, given, layout in zip(ids, classes, layouts, strict=True):
        if len(given) != (number := int(layout.max(initial=-1)) + 1):
            raise DataError(
                f"record {name} has {number} {unit}s, but {len(given)} classes in {column}; expected one for each {unit}; correct it"
            )
    names = config.class_names or class_names(pl.Series([name for given in classes for name in given], dtype=pl.String))
    units = [
        Units(layout, class_numbers([name] * len(given), given, names, column))
        for name, given, layout in zip(ids, classes, layouts, strict=True)
    ]
    answers = [token_classes(e.residues, u.of_residue, u.classes, len(names)) for e, u in zip(examples, units, strict=True)]
    asked = np.concatenate([answer for answer, train in zip(answers, _is_train(records), strict=True) if train])
    check_classes(asked, names, column)
    _check_known(records["split"].to_list(), answers, unit, column)
    problem = replace(_class_problem(config, names, asked[asked != IGNORED]), by_word=by_word)
    return problem, [_labelled(e, answer) for e, answer in zip(examples, answers, strict=True)], units


def _check_known(splits: list[str], answers: Sequence[IntArray], unit: str, column: str) -> None:
    """Raises DataError naming a split in which no class is known, so that there is nothing to score."""
    known = {split for split, answer in zip(splits, answers, strict=True) if (answer != IGNORED).any()}
    for split in ("validation", "test"):
        if split in splits and split not in known:
            raise DataError(
                f"finetune: no {unit} of the {split} split has a class in {column}: all are null; expected some to score by: "
                "label some, leave its records unlabelled as a whole, or change ingest.split"
            )


def _class_problem(config: Config, names: list[str], train: IntArray) -> Problem:
    counts = np.bincount(train, minlength=len(names))
    if absent := [name for name, count in zip(names, counts, strict=True) if not count]:
        say(f"finetune: the train split holds no example of {listed(absent)}, which cannot be learnt")
    weights = balanced_weights(counts) if config.class_weights == "balanced" else None
    return Problem(config.task, names, weights, ((counts + 1) / (counts.sum() + len(names))).astype(np.float32))


def _labelled(example: Example, answer: NDArray[Any]) -> Labelled:
    return Labelled(**vars(example) | {"answer": np.asarray(answer)})


# --- pairs ----------------------------------------------------------------------------------------------------------------------


def _joined(records: pl.DataFrame, firsts: list[Example], encoder: Encoder, pair: str, typed: bool) -> list[Example]:
    """Each record and its second as the tokenizer joins pairs. The tracks of a fused model are those of the first.

    typed: whether the model tells the two by token types. Raises DataError naming records without a second.
    """
    column = COVARIATE + pair
    if column not in records.columns or records[column].dtype != pl.String:
        raise DataError(f"finetune.pair: {column} should be a column of text or sequences; it is {records.schema.get(column, 'not there')}")
    missing = records.filter(pl.col(column).is_null() | (pl.col(column) == ""))["id"].to_list()
    if missing:
        raise DataError(f"{len(missing)} records have no second of the pair in {column}: {listed(missing, 5)}; fill it, or remove them")
    others = records.select("id", "split", sequence=column)
    pieces, types = _pair_template(encoder)
    joined: list[Example] = []
    for first, second in zip(firsts, encode_corpus(others, encoder, None), strict=True):
        bodies = [example.ids[~example.special] for example in (first, second)]
        ids = [pieces[0], bodies[0], pieces[1], bodies[1], pieces[2]]
        lengths = [len(part) for part in ids]
        special = np.repeat([True, False, True, False, True], lengths)
        residues = np.zeros(len(special), dtype=np.int64)
        residues[~special] = np.concatenate([first.residues[~first.special], second.residues[~second.special]])
        tracked = np.zeros_like(residues)
        tracked[lengths[0] : lengths[0] + lengths[1]] = first.track_residues[~first.special]
        example = replace(first, ids=np.concatenate(ids), residues=residues, special=special, tracked=tracked)
        type_ids = np.repeat(types, lengths) if typed else None
        joined.append(Labelled(**vars(example) | {"answer": np.zeros(0, dtype=np.int64), "type_ids": type_ids}))
    return joined


def _pair_template(encoder: Encoder) -> tuple[list[IntArray], list[int]]:
    """What the tokenizer puts before, between and behind the two of a pair, and the type of each of the five parts.

    A tokenizer that puts nothing between them gets its end-of-text token there. Raises ConfigError if it has none.
    """
    bare, full = encoder.tokenizer.encode("a", add_special_tokens=False).ids, encoder.tokenizer.encode("a", "a")
    starts = [i for i in range(len(full.ids)) if full.ids[i : i + len(bare)] == bare]
    first, second = starts[0], next(i for i in starts if i >= starts[0] + len(bare))
    pieces = [full.ids[:first], full.ids[first + len(bare) : second], full.ids[second + len(bare) :]]
    if not pieces[1]:
        if encoder.end_id is None:
            raise ConfigError(
                "task pair_classification: the tokenizer puts nothing between the two of a pair and has no eos_token; expected one of both"
            )
        pieces[1] = [encoder.end_id]
    types = [full.type_ids[0], full.type_ids[first], full.type_ids[first], full.type_ids[second], full.type_ids[second]]
    return [np.asarray(piece, dtype=np.int64) for piece in pieces], types


# --- padding --------------------------------------------------------------------------------------------------------------------


def _padding(encoder: Encoder, config: Any, examples: Sequence[Example], problem: Problem) -> int:
    """The id that padding is written with. A decoder classifies a record by its last token that is not padding, which it tells by this
    id: so no record may end with it, as they do where padding and end of text are one token. Raises ConfigError if there is no such id."""
    declared = [i for i in (config.pad_token_id, encoder.pad_id) if i is not None]
    if architecture_of(config) != "decoder" or problem.kind != "AutoModelForSequenceClassification":
        return declared[0] if declared else 0
    ends = {int(example.ids[-1]) for example in examples}
    tokens = encoder.tokenizer.get_added_tokens_decoder()
    spare = [i for i, token in sorted(tokens.items()) if token.special and i < config.vocab_size]
    for number in (*declared, *spare):
        if number not in ends:
            return int(number)
    raise ConfigError(
        f"the model pads with token {declared or 'none'}, which ends records too, so that nothing tells where a record ends; "
        "give the tokenizer a pad token of its own ([PAD] or <pad>)"
    )
