"""The recipe section `classify`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from biollm.core.errors import listed, repeated
from biollm.core.recipe import Section
from biollm.corpus.columns import LABEL

HeadName = Literal["logistic", "ridge", "svm", "forest", "xgboost", "mlp"]
Task = Literal["binary", "multiclass", "multilabel", "regression", "ranking"]
Calibration = Literal["none", "isotonic", "sigmoid", "temperature"]
Scheme = Literal["given", "group_kfold", "stratified_group_kfold", "leave_one_group_out", "nested"]

CLASS_TASKS: tuple[Task, ...] = ("binary", "multiclass")


class SplitOptions(Section):
    """Which records a head is fitted on, and which it is scored on."""

    scheme: Scheme = Field(
        default="given",
        description="given: the corpus's own splits; else folds by group over all labelled records (nested: with several inner folds each)",
    )
    folds: int = Field(default=5, ge=2, le=50, description="outer folds (not leave_one_group_out, which has one for each group)")
    inner_folds: int = Field(default=3, ge=2, le=20, description="folds within the train rows of a fold, on which settings are chosen")
    by: str = Field(default="group", min_length=1, description="column of the corpus whose equal values stay in one fold")


class TuneOptions(Section):
    """Search of settings by optuna, on inner folds only."""

    trials: int = Field(default=20, ge=1, description="settings tried for each row (and fold)")
    timeout_seconds: float | None = Field(
        default=None, gt=0, description="stop the search of a row after this long; results then depend on the machine's speed"
    )


class Config(Section):
    """Which label is predicted, from what, by which heads, and how sure the scores must be."""

    label: str = Field(default="coding", min_length=1, description="what is predicted: the column label_<name> of the corpus")
    labels: list[str] = Field(
        default=[], description="several labels with values 0 and 1, predicted together (multilabel); then `label` is not read"
    )
    task: Literal["auto"] | Task = Field(
        default="auto",
        description="auto: from the label. Two values: binary; text or up to 20 whole numbers: multiclass; other numbers: regression",
    )
    classes: list[str | int] = Field(
        default=[],
        description="the classes in order, any other is an error; of two the second is the positive one. Default: those of the label",
    )
    query: str = Field(default="group", min_length=1, description="column whose equal values are ranked against each other (ranking)")
    heads: list[HeadName] = Field(
        default=[],
        description="classifiers put on every feature set; default: logistic (regression: ridge) and xgboost, of them what the task allows",
    )
    covariates: list[str] = Field(
        default=[], description="columns of the corpus beside the sequence: numbers are standardised, text is one-hot; fitted on train rows"
    )
    pca: int | None = Field(default=None, ge=1, description="standardise the columns of a row and keep so many principal components")
    tune: TuneOptions | None = Field(default=None, description="search settings with optuna; default: a short list for each head")
    calibration: Calibration = Field(
        default="none", description="of probabilities, on rows that the head was not fitted on; svm and ridge get sigmoid if none is named"
    )
    abstain: float | None = Field(
        default=None, gt=0, le=1, description="answer only where sure: the accuracy that the answered validation records must reach"
    )
    split: SplitOptions = SplitOptions()
    kmer: int | None = Field(
        default=None, ge=1, le=6, description="length of the k-mers of the baseline; default: DNA and RNA 4, protein 2, SMILES and text 3"
    )
    bootstrap_samples: int = Field(default=1000, ge=100, description="resamples of test groups behind every 95 % interval")
    embeddings_plus_kmers: bool = Field(default=True, description="also score the adapted embeddings and the k-mers together")

    @field_validator("heads", "covariates", "labels", "classes")
    @classmethod
    def _each_once(cls, values: list[Any]) -> list[Any]:
        if twice := repeated(map(str, values)):
            raise ValueError(f"has {listed(twice)} twice; name each once")
        return values

    @model_validator(mode="after")
    def _covariates_do_not_tell_the_answer(self) -> Config:
        if told := [name for name in (LABEL + label for label in self.labels or [self.label]) if name in self.covariates]:
            raise ValueError(f"covariates names {told[0]}, which is what is predicted; leave it out")
        return self

    @model_validator(mode="after")
    def _options_fit_the_task(self) -> Config:
        if self.labels and self.task not in ("auto", "multilabel"):
            raise ValueError(f"labels is {self.labels}, but task is {self.task}; several labels are for task multilabel")
        if self.task == "multilabel" and not self.labels:
            raise ValueError("labels is []; task multilabel needs the names of labels with values 0 and 1")
        if self.classes and (self.labels or self.task in ("regression", "ranking")):
            raise ValueError("classes is given, but only tasks binary and multiclass have classes; leave it out")
        if len(self.classes) == 1 or (self.task == "binary" and len(self.classes) > 2):
            raise ValueError(f"classes is {self.classes}; a choice needs two or more, task binary exactly two")
        if self.abstain is not None and (self.labels or self.task in ("regression", "ranking")):
            raise ValueError("abstain is given, but only tasks binary and multiclass can abstain; leave it out")
        if self.calibration != "none" and self.task in ("regression", "ranking"):
            raise ValueError(f"calibration is {self.calibration}, but task {self.task} has no probabilities; leave it out")
        return self

    def contradictions(self, recipe: Any) -> list[str]:
        """Labels and covariates that ingest does not make are known only when the corpus is read; fine-tuning and folds are known here."""
        found = []
        if self.labels and recipe.finetune is not None:
            found.append("classify.labels is given, but a recipe with finetune scores both on one label; leave one of them out")
        return found
