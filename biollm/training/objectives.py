"""What is learnt from a document: which tokens are hidden, and what is to be answered where.

Everything drawn is a function of a seed that depends on (run, epoch, document) alone, never of workers, ranks or a generator's state.
So a run that was cut anywhere and goes on asks exactly what an uninterrupted run asks.

Legend: T tokens the model reads, U tokens a decoder answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from biollm.core.errors import ConfigError
from biollm.modeling.encoding import Encoder, IntArray
from biollm.training.config import ObjectiveName, TrackTraining
from biollm.training.examples import Example
from biollm.training.tracks import TrackQuestion, ask_tracks

IGNORED = -100  # the label of positions that do not count, as in torch and transformers

Architecture = Literal["encoder", "decoder", "encoder-decoder"]
AUTO_CLASSES: dict[Architecture, str] = {
    "encoder": "AutoModelForMaskedLM",
    "decoder": "AutoModelForCausalLM",
    "encoder-decoder": "AutoModelForSeq2SeqLM",
}
# What each architecture can learn; the first is what it was pretrained to do.
LEARNS: dict[Architecture, tuple[ObjectiveName, ...]] = {
    "encoder": ("masked", "diffusion"),
    "decoder": ("causal", "prefix", "diffusion"),
    "encoder-decoder": ("span_corruption", "prefix"),
}
_LEAST_NOISE = 0.02  # a diffusion step that hides less would have a weight without bound


@dataclass(frozen=True)
class Question:
    """What one forward pass asks about a document.

    ids: (T,), tracks: what the model reads, and is asked of the tracks. labels: at each position the id that the output there should be,
    IGNORED where none is asked; residues: what each label stands for; weights: of each label in the loss, 1 if None. They are (T,), or
    (U,) where a decoder answers: it reads `decoder_ids`. count: what the summed loss is divided by. prefix: how many first tokens of a
    causal model see each other.
    """

    ids: IntArray
    labels: IntArray
    residues: IntArray
    count: int
    tracks: TrackQuestion | None = None
    weights: NDArray[np.float32] | None = None
    prefix: int | None = None
    decoder_ids: IntArray | None = None

    @property
    def units(self) -> int:
        """The bases, residues or bytes that its loss is of: those of its labels, or where weights make it a bound for all, of all."""
        return int((self.residues if self.weights is not None else self.residues[self.labels != IGNORED]).sum())


@dataclass(frozen=True)
class Objective:
    """A way of asking. Rates are shares of a document's own tokens, special ones not counted.

    masked (Devlin et al. 2019): a share `rate` is to be predicted, at least one token, single or in spans of `span` tokens on average
    (SpanBERT, Joshi et al. 2020); of these a share `hidden` becomes the mask token, `randomised` another token, the rest stays.
    causal: every token from those before it. prefix: the tokens behind a random place, from all before it and one another.
    span_corruption (T5, Raffel et al. 2020): spans replaced by sentinels, which the decoder fills in.
    diffusion (LLaDA, Nie et al. 2025): a share drawn for each document is hidden, and its loss weighted by 1 / share: a bound of the
    log-likelihood.
    """

    name: ObjectiveName
    architecture: Architecture
    encoder: Encoder
    tracks: TrackTraining | None = None  # how a fused model learns from its tracks
    rate: float = 0.15
    hidden: float = 0.8
    randomised: float = 0.1
    span: float = 1.0
    mask_id: int | None = None
    sentinels: tuple[int, ...] = ()
    start_id: int = 0  # of an encoder-decoder's answer
    evaluates: bool = False

    @property
    def overrides_direction(self) -> bool:
        """Whether a causal model has to look both ways."""
        return self.name == "diffusion" and self.architecture == "decoder"

    @property
    def learns_to_stop(self) -> bool:
        """Whether what is learnt includes where a document ends: its end is then a token to be predicted (see examples.with_end)."""
        return self.name in ("causal", "prefix") and self.architecture == "decoder"

    @property
    def needs_packing(self) -> bool:
        """Whether it asks for attention that only `modeling.documents` computes."""
        return self.overrides_direction or (self.name == "prefix" and self.architecture == "decoder")

    def for_evaluation(self) -> Objective:
        """The same questions with nothing left to be read off, about the document's own tokens alone.

        Whoever reads one way gets no tracks: a methylated CG tells the letter behind it. Others get none within two residues of a hidden
        token.
        """
        return replace(self, hidden=1.0, randomised=0.0, tracks=None, evaluates=True)

    def ask(self, example: Example, seed: int) -> Question:
        """The question about a document that this seed draws."""
        rng = np.random.default_rng(seed)
        match self.name:
            case "masked":
                return self._masked(example, rng, seed)
            case "causal":
                return self._causal(example, rng, seed)
            case "prefix":
                divided = self.architecture == "encoder-decoder"
                return self._divided(example, rng, seed) if divided else self._causal(example, rng, seed, prefix=True)
            case "span_corruption":
                return self._span_corruption(example, rng, seed)
            case "diffusion":
                return self._diffusion(example, rng, seed)

    def _masked(self, example: Example, rng: np.random.Generator, seed: int) -> Question:
        assert self.mask_id is not None, "checked when the objective was made"
        body = np.flatnonzero(~example.special)
        chosen = _choose(body, max(1, round(self.rate * len(body))), self.span, rng)
        fate = rng.random(len(chosen))
        ids, labels = example.ids.copy(), np.full_like(example.ids, IGNORED)
        labels[chosen] = example.ids[chosen]
        ids[chosen[fate < self.hidden]] = self.mask_id
        replaced = chosen[(fate >= self.hidden) & (fate < self.hidden + self.randomised)]
        ids[replaced] = rng.choice(example.pool, size=len(replaced))
        return Question(ids, labels, example.residues, len(chosen), ask_tracks(example, chosen, self.tracks, seed))

    def _diffusion(self, example: Example, rng: np.random.Generator, seed: int) -> Question:
        assert self.mask_id is not None, "checked when the objective was made"
        body = np.flatnonzero(~example.special)
        noise = rng.uniform(_LEAST_NOISE, 1.0)
        chosen = body[rng.random(len(body)) < noise]
        ids, labels = example.ids.copy(), np.full_like(example.ids, IGNORED)
        labels[chosen] = example.ids[chosen]
        ids[chosen] = self.mask_id
        weights = np.full(len(ids), 1 / noise, dtype=np.float32)
        return Question(ids, labels, example.residues, len(body), ask_tracks(example, chosen, self.tracks, seed), weights)

    def _causal(self, example: Example, rng: np.random.Generator, seed: int, prefix: bool = False) -> Question:
        ids, residues = example.ids, example.residues
        tracks = ask_tracks(self._to_be_read(example), _NONE, self.tracks, seed)
        seen = int(rng.integers(1, max(2, len(ids)))) if prefix else 1
        labels, behind = np.full_like(ids, IGNORED), np.zeros_like(residues)
        labels[seen - 1 : -1], behind[:-1] = ids[seen:], residues[1:]
        if not prefix:  # special tokens that stand before every document say nothing
            labels[: max(0, int(np.flatnonzero(~example.special)[0]) - 1)] = IGNORED
        asked = int((labels != IGNORED).sum())
        return Question(ids, labels, behind, asked, tracks, prefix=seen if prefix else None)

    def _divided(self, example: Example, rng: np.random.Generator, seed: int) -> Question:
        """Prefix language modelling of an encoder-decoder: the encoder reads up to a random place, the decoder goes on from there."""
        body = np.flatnonzero(~example.special)
        first, last = int(body[0]), int(body[-1]) + 1
        cut = first + int(rng.integers(1, max(2, len(body))))
        read = np.r_[0:cut, last : len(example.ids)]
        tracks = ask_tracks(self._to_be_read(example), np.arange(cut, last), self.tracks, seed)
        return self._answer(example, read, example.ids[cut:], example.residues[cut:], tracks)

    def _span_corruption(self, example: Example, rng: np.random.Generator, seed: int) -> Question:
        body = np.flatnonzero(~example.special)
        number = min(max(1, round(self.rate * len(body))), max(1, len(body) - 1))
        chosen = np.sort(_choose(body, number, max(self.span, 1.0), rng))
        spans = np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1)[: len(self.sentinels)]
        hidden = np.zeros(len(example.ids), dtype=bool)
        hidden[np.concatenate(spans)] = True
        heads = np.asarray([span[0] for span in spans])
        ids = example.ids.copy()
        ids[heads] = self.sentinels[: len(spans)]
        keep = ~hidden
        keep[heads] = True
        answer = np.concatenate([np.r_[self.sentinels[i], example.ids[span]] for i, span in enumerate(spans)])
        residues = np.concatenate([np.r_[0, example.residues[span]] for span in spans])
        tracks = ask_tracks(example, np.flatnonzero(hidden), self.tracks, seed)
        return self._answer(replace(example, ids=ids), np.flatnonzero(keep), answer, residues, tracks)

    def _answer(self, example: Example, read: IntArray, answer: IntArray, residues: IntArray, tracks: TrackQuestion | None) -> Question:
        decoder_ids = np.r_[self.start_id, answer[:-1]]
        seen = None if tracks is None else tracks.at(read)
        return Question(example.ids[read], answer, residues, len(answer), seen, decoder_ids=decoder_ids)

    def _to_be_read(self, example: Example) -> Example:
        return replace(example, tracks=None) if self.evaluates else example


_NONE = np.zeros(0, dtype=np.int64)


def _choose(body: IntArray, number: int, span: float, rng: np.random.Generator) -> IntArray:
    """`number` of the places `body`, one by one or in runs whose length is geometric with mean `span`."""
    if span <= 1:
        return rng.choice(body, size=number, replace=False)
    taken = np.zeros(len(body), dtype=bool)
    while (missing := number - int(taken.sum())) > 0:
        length = min(int(rng.geometric(1 / span)), missing)
        start = int(rng.integers(0, len(body) - length + 1))
        taken[start : start + length] = True
    return body[taken]


def architecture_of(config: Any) -> Architecture:
    """What kind of model a transformers config describes."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if config.is_encoder_decoder:
        return "encoder-decoder"
    architecture = (config.architectures or [""])[0]
    generates = architecture.endswith(("CausalLM", "LMHeadModel"))
    masks = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "decoder" if generates or (not masks and config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) else "encoder"


def resolve(name: ObjectiveName | Literal["auto"], kind: Architecture) -> ObjectiveName:
    """The objective that a recipe means for a kind of model: `auto` is what it was pretrained to do."""
    return LEARNS[kind][0] if name == "auto" else name


def make_objective(
    name: ObjectiveName | Literal["auto"],
    encoder: Encoder,
    config: Any,
    tracks: TrackTraining | None = None,
    *,
    mask_token: str | None = None,
    **settings: Any,
) -> Objective:
    """The objective of a recipe for a model. config: the model's; settings: `rate`, `hidden`, `randomised`, `span`.

    Raises ConfigError if this kind of model cannot learn it, or the tokenizer lacks the tokens that it needs.
    """
    kind = architecture_of(config)
    chosen = resolve(name, kind)
    if chosen not in LEARNS[kind]:
        raise ConfigError(
            f"objective is {chosen}, but the model is an {kind} and learns {' or '.join(LEARNS[kind])}".replace("an d", "a d")
        )
    mask_id = encoder.tokenizer.token_to_id(mask_token) if mask_token else encoder.mask_id
    if mask_token and mask_id is None:
        raise ConfigError(f"mask_token is {mask_token!r}, which is no token of this tokenizer; name one that it has")
    if chosen in ("masked", "diffusion") and mask_id is None:
        raise ConfigError(
            f"objective {chosen} hides tokens behind a mask token, but the tokenizer has none ([MASK] or <mask>); "
            "choose another objective, or name a token that is never used otherwise in mask_token"
        )
    sentinels = tuple(i for i in map(encoder.tokenizer.token_to_id, (f"<extra_id_{n}>" for n in range(100))) if i is not None)
    if chosen == "span_corruption" and not sentinels:
        raise ConfigError(f"objective {chosen} needs sentinels <extra_id_0>, <extra_id_1> …; the tokenizer has none")
    return Objective(
        chosen,
        kind,
        encoder,
        tracks,
        mask_id=mask_id,
        sentinels=sentinels,
        start_id=getattr(config, "decoder_start_token_id", None) or 0,
        **settings,
    )
