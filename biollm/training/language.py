"""Language modelling by any stock model: the summed loss of a batch, and scores on held-out documents.

The output head is computed only where a token is to be predicted, which in masked language modelling is one place in seven: per place it
costs width x vocabulary, as much as several layers. The encoder's output is thinned by a hook before the model's own head sees it, so
any head that works place by place is right.

Legend: N tokens of a batch, M labels that count, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from biollm.core.errors import ConfigError, DataError
from biollm.core.files import read_json, write_json
from biollm.core.progress import progress
from biollm.core.seeding import derive_seed, generator
from biollm.modeling.documents import Documents, position_offset, reads_documents, set_documents, use_documents
from biollm.modeling.encoding import IntArray, by_length
from biollm.modeling.fusion import FusedModel
from biollm.training.batches import Batch, pack_questions, pad_questions
from biollm.training.examples import Example
from biollm.training.objectives import IGNORED, Objective, Question
from biollm.training.processes import shared_out
from biollm.training.tracks import track_loss

_EVALUATION_TOKENS = 4096
_BRIEF_BATCH = 8
_BRIEF_LEARNING_RATE = 1e-4


class FutureHeads(nn.Module):
    """What stands before the output head for tokens further on (multi-token prediction; Gloeckle et al. 2024, here without a layer of
    their own: h + W h for each distance, W zero at the start)."""

    def __init__(self, number: int, width: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(number))
        for projection in self.projections:
            nn.init.zeros_(projection.weight)  # type: ignore[arg-type]

    def forward(self, hidden_MD: Tensor, distance: int) -> Tensor:
        """For the token `distance` places behind the next one, from 1 on."""
        ahead: Tensor = self.projections[distance - 1](hidden_MD)
        return hidden_MD + ahead


class LanguageModel(nn.Module):
    """A stock model, fused or not, whose forward is the summed loss of a batch in nats, in float32.

    Its batches are flat rows of documents (see modeling.documents), or padded ones: then `why_padded` says why.
    """

    def __init__(
        self, model: FusedModel, objective: Objective, future_tokens: int = 0, future_weight: float = 0.3, *, packed: bool = True
    ) -> None:
        """packed: False pads batches even where the model could read packed ones.

        Raises ConfigError if the objective needs packed documents, and there are none.
        """
        super().__init__()
        self.model, self.objective, self._future_weight = model, objective, future_weight
        self._stock_attention = model.stock.config._attn_implementation  # type: ignore[union-attr]
        self.why_padded = reads_documents(model.stock, _probe(objective)) if packed else "packed is false"
        if self.why_padded is None:
            use_documents(model.stock)
        elif objective.needs_packing:
            raise ConfigError(f"objective {objective.name} needs attention that can be replaced, but of this model: {self.why_padded}")
        self.first_position = position_offset(model.stock.config)
        width = model.stock.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
        self.future = FutureHeads(future_tokens, width) if future_tokens else None
        self._labels: Tensor | None = None
        self._asked: int | None = None  # places that the head was given; None: it was not thinned
        self._tracks: tuple[Tensor, Tensor | None, Tensor, Tensor] | None = None
        self._track_loss: Tensor | None = None
        self.label_loss: Tensor | None = None
        below_head: nn.Module = model.stock.base_model  # type: ignore[assignment]
        if objective.architecture != "encoder":  # OPT calls its decoder past its base model, T5 has no module of its own below its head
            below_head = model.stock.get_decoder()  # type: ignore[operator]
        reads_tracks = model.stock.get_encoder() if objective.architecture == "encoder-decoder" else below_head  # type: ignore[operator]
        self._hooks = [reads_tracks.register_forward_hook(self._predict_tracks), below_head.register_forward_hook(self._thin)]

    def release(self) -> nn.Module:
        """The stock model as it came, for who reads it otherwise; this module is of no use any more."""
        for hook in self._hooks:
            hook.remove()
        self.model.stock.set_attn_implementation(self._stock_attention)  # type: ignore[operator]
        return self.model.stock

    @property
    def packed(self) -> bool:
        return self.why_padded is None

    def collate(self, questions: Sequence[Question]) -> Batch:
        """Questions as the batch that this model reads."""
        if self.packed:
            return pack_questions(questions, self.first_position)
        return pad_questions(questions, self.objective.encoder.pad_id or 0)

    def forward(
        self, *, weights: Tensor | None = None, count: Tensor | None = None, units: Tensor | None = None, **batch: Tensor
    ) -> Tensor:
        """The loss summed over labels, with that of tokens further on and of hidden track values. `count` and `units` belong to whoever
        divides by them."""
        labels = batch["labels"]
        logits = self._logits(**batch)
        asked = labels != IGNORED
        nats = functional.cross_entropy(logits[: int(asked.sum())].float(), labels[asked], reduction="none")
        total = (nats if weights is None else nats * weights[asked]).sum()
        self.label_loss = total.detach() if self.future is not None or self._track_loss is not None else None
        done = len(nats)
        for ahead in self._further_labels(labels):
            answers = ahead[ahead != IGNORED]
            further = functional.cross_entropy(logits[done : done + len(answers)].float(), answers, reduction="sum")
            total = total + self._future_weight * further
            done += len(answers)
        if self._track_loss is not None:
            assert self.objective.tracks is not None, "only training asks about tracks"
            total = total + self.objective.tracks.weight * self._track_loss
        return total

    def nats(self, batch: Batch) -> Tensor:
        """(M,) weighted losses of the labels of a batch, in the order of the batch."""
        labels = batch["labels"]
        asked = labels != IGNORED
        logits = self._logits(**{name: tensor for name, tensor in batch.items() if name not in ("weights", "count", "units")})
        nats = functional.cross_entropy(logits[: int(asked.sum())].float(), labels[asked], reduction="none")
        return nats * batch["weights"][asked] if "weights" in batch else nats

    def _logits(
        self,
        *,
        labels: Tensor,
        lengths: Tensor | None = None,
        prefixes: Tensor | None = None,
        features: Tensor | None = None,
        track_answers: Tensor | None = None,
        track_weights: Tensor | None = None,
        **inputs: Tensor,
    ) -> Tensor:
        """(M, V) for the labels that count, then those for tokens further on."""
        if lengths is not None:
            seen = None if prefixes is None else tuple(prefixes.tolist())
            set_documents(Documents(tuple(lengths.tolist()), self.objective.overrides_direction, seen))
        self._labels, self._asked, self._track_loss = labels, None, None
        documents = None
        if features is not None and lengths is not None:
            documents = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)[None]
        if features is not None and track_answers is not None and track_weights is not None:
            self._tracks = features, documents, track_answers, track_weights
        try:
            options = {} if self.objective.architecture == "encoder" else {"use_cache": False}
            logits: Tensor = self.model(features=features, documents=documents, **options, **inputs).logits[0]
        finally:
            self._labels = self._tracks = None
        if len(logits) != self._asked:
            raise ConfigError(
                f"{type(self.model.stock).__name__}: its output head does not read what its base model gives, so it cannot be computed at "
                "the tokens that are asked for alone; take another base model, and please report this one"
            )
        return logits

    def _predict_tracks(self, module: nn.Module, args: Any, output: Any) -> None:
        """The loss of hidden track values. Also where a batch asks for none: every process of a run must have the same gradients."""
        if self._tracks is None:
            return
        assert self.model.operator is not None
        head = self.model.operator.head
        assert head is not None, "asked only of models that impute"
        features, documents, answers, weights = self._tracks
        asked = ~answers.isnan().all(dim=-1)
        guesses = self.model.operator.predict(output.last_hidden_state, features, documents)
        losses = [track_loss(guess[asked], answers[asked], weights[asked], head.is_share) for guess in guesses]
        self._track_loss = torch.stack(losses).sum()

    def _thin(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._labels is None:
            return output
        hidden = output.last_hidden_state
        asked = [hidden[self._labels != IGNORED]]
        for distance, ahead in enumerate(self._further_labels(self._labels), start=1):
            assert self.future is not None
            asked.append(self.future(hidden[ahead != IGNORED], distance))
        output.last_hidden_state = torch.cat(asked)[None]
        self._asked = output.last_hidden_state.shape[1]
        return output

    def _further_labels(self, labels: Tensor) -> list[Tensor]:
        """Labels one place further on, two places, and so forth; the last places of a document have none."""
        further = []
        for _ in self.future.projections if self.future is not None else ():
            shifted = torch.roll(labels, -1, dims=1)
            shifted[:, -1] = IGNORED
            labels = shifted.masked_fill(labels == IGNORED, IGNORED)
            further.append(labels)
        return further


def _probe(objective: Objective) -> list[IntArray]:
    """A few short documents of this tokenizer, one with a mask token."""
    encoder = objective.encoder
    rows = [encoder.with_special_tokens(encoder.ordinary_ids[-n - 1 : -1]) for n in (5, 9, 9, 3)]
    if objective.mask_id is not None:
        rows[1][len(encoder.prefix) + 3] = objective.mask_id
    return rows


@dataclass(frozen=True)
class LanguageScore:
    """Loss per predicted token (depends on the vocabulary), and in bits per base, residue or byte that the tokens stand for.

    bits, units: (documents,), whose ratio of sums is bits_per_base. For masked language modelling a pseudo-likelihood: each token is
    predicted from both sides, so it is no compression rate.
    """

    nats_per_token: float
    bits_per_base: float
    bits: NDArray[np.float64] = field(compare=False, repr=False)
    units: NDArray[np.float64] = field(compare=False, repr=False)


def write_scores(file: Path, scores: dict[str, LanguageScore]) -> None:
    """Write scores as JSON."""
    values = {name: {**vars(score), "bits": score.bits.tolist(), "units": score.units.tolist()} for name, score in scores.items()}
    write_json(file, values)


def read_scores(file: Path) -> dict[str, LanguageScore]:
    """What `write_scores` wrote, equal to the bit."""
    return {
        name: LanguageScore(**score | {"bits": np.asarray(score["bits"]), "units": np.asarray(score["units"])})
        for name, score in read_json(file).items()
    }


def score_language(module: LanguageModel, examples: Sequence[Example], seed: int, what: str) -> LanguageScore:
    """The loss on held-out documents, in the model's own precision. Models that are scored with one seed answer the same questions.

    Raises DataError if there is nothing to predict in any of them, or naming one whose loss is no number.
    """
    module.eval()
    questions = _evaluation_questions(module.objective, examples, seed)
    if not sum(question.units for question in questions):
        raise DataError(
            f"{what}: the {len(examples)} held-out documents have one letter each, such as {examples[0].name}, and nothing before it that "
            "could predict it; expected longer ones: bring other data, or change ingest.split"
        )
    nats = losses_of(module, questions, questions, what)
    if not np.isfinite(nats).all():
        first = int(np.flatnonzero(~np.isfinite(nats))[0])
        raise DataError(
            f"{what}: the loss of document {examples[first].name} is {nats[first]}; the model's weights are out of bounds: "
            "lower learning_rate, or set precision: fp32"
        )
    return _score(nats, questions)


def losses_of(module: Any, items: Sequence[Any], questions: Sequence[Question], what: str | None) -> NDArray[np.float64]:
    """(items,) The summed loss of each item, in nats; of a module in evaluation with `collate` and `nats`.

    items: what it collates; questions: what they ask; what: the title of a progress bar, if any.
    """
    lengths = [len(question.ids) for question in questions]
    device = next(module.parameters()).device
    ordered = [sorted(indices, key=lambda i: lengths[i]) for indices in by_length(lengths, _EVALUATION_TOKENS)]  # as packing orders them

    def of_batch(indices: list[int]) -> list[float]:
        batch = module.collate([items[i] for i in indices])
        of_labels = module.nats({name: tensor.to(device) for name, tensor in batch.items()})
        parts = torch.split(of_labels, [int((questions[i].labels != IGNORED).sum()) for i in indices])
        return [float(part.sum(dtype=torch.float64)) for part in parts]

    with torch.no_grad():
        said = shared_out(ordered, of_batch, what)
    nats = np.zeros(len(items))
    for indices, found in zip(ordered, said, strict=True):
        nats[indices] = found
    return nats


def score_token_frequencies(objective: Objective, train: Sequence[Example], examples: Sequence[Example], seed: int) -> LanguageScore:
    """The same score for the trivial model that predicts every token by its frequency in the train split (add-one smoothed)."""
    questions = _evaluation_questions(objective, examples, seed)
    asked = [q.labels != IGNORED for q in questions]
    answers = [q.labels[a] for q, a in zip(questions, asked, strict=True)]
    counts = np.zeros(max(objective.encoder.tokenizer.get_vocab().values()) + 1, dtype=np.int64)
    for i, example in enumerate(train):
        np.add.at(counts, _possible_answers(objective, example, derive_seed(seed, "frequencies", i)), 1)
    possible = np.unique(np.concatenate([examples[0].pool, np.flatnonzero(counts), *answers]))  # beside ordinary tokens: ends, sentinels
    smoothed = counts[possible] + 1.0
    log_share = np.zeros(len(counts))
    log_share[possible] = np.log(smoothed / smoothed.sum())
    weights = [q.weights if q.weights is not None else np.ones(len(q.labels)) for q in questions]
    nats = [-float((log_share[found] * w[a]).sum()) for found, a, w in zip(answers, asked, weights, strict=True)]
    return _score(np.array(nats), questions)


def _possible_answers(objective: Objective, example: Example, seed: int) -> IntArray:
    """Every id of a document that may be asked for, as often as it is; of an encoder-decoder, whose answers hold sentinels that its
    documents do not, those of one question."""
    if objective.architecture == "encoder-decoder":
        labels = objective.ask(example, seed).labels
        ids = labels[labels != IGNORED]
    elif objective.learns_to_stop:
        ids = example.ids[int(np.flatnonzero(~example.special)[0]) :]
    else:
        ids = example.ids[~example.special]
    return np.asarray(ids, dtype=np.int64)


def train_briefly(module: LanguageModel, examples: Sequence[Example], steps: int, seed: int, what: str) -> None:
    """Train a model in place for a few steps, to compare starts: AdamW, constant rate, batches by seed alone. No checkpoints."""
    module.train()
    torch.manual_seed(derive_seed(seed, "dropout"))
    device = next(module.parameters()).device
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=_BRIEF_LEARNING_RATE, weight_decay=0.0)
    order = generator(seed, "order").integers(len(examples), size=(steps, _BRIEF_BATCH))
    for step in progress(range(steps), what, unit="step"):
        questions = [module.objective.ask(examples[i], derive_seed(seed, "mask", step, place)) for place, i in enumerate(order[step])]
        batch = {name: tensor.to(device) for name, tensor in module.collate(questions).items()}
        optimizer.zero_grad()
        (module(**batch) / batch["count"]).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    module.eval()


def _evaluation_questions(objective: Objective, examples: Sequence[Example], seed: int) -> list[Question]:
    asking = objective.for_evaluation()
    return [asking.ask(example, derive_seed(seed, "evaluation", i)) for i, example in enumerate(examples)]


def _score(nats: NDArray[np.float64], questions: Sequence[Question]) -> LanguageScore:
    """nats: (questions,)"""
    bits, units = nats / math.log(2), np.array([q.units for q in questions], dtype=np.float64)
    return LanguageScore(float(nats.sum()) / sum(q.count for q in questions), float(bits.sum() / units.sum()), bits, units)
