"""Token Distillation: learn the rows of new tokens so that the model reads on as it did with the base tokens.

Dobler, Elliott & de Melo, "Token Distillation: Attention-Aware Input Embeddings for New Tokens", ICLR 2026 (arXiv:2505.20133). What a word
of several tokens means is not in their rows but is put together by the first layers; so the row of a new token is learnt by
gradient descent through the frozen model, until the hidden states match those over the base tokens.

So it is as good as the model's reading of the pieces. On words that the model never saw in pieces, `mix`, which takes after whole words,
is closer to the truth; benchmarks/init.py shows both.

Legend: N new tokens, B contexts of a batch, T tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from biollm.core.errors import ConfigError, DataError

CONTEXT_TOKENS = 64  # base tokens of a context that is cut from a text, special ones included
# Of the largest value: what changes the first token more depends on the tokens behind. Measured on tiny random models of float32: in a
# causal mixture of experts rounding alone changes it by 1e-6; encoders of one layer, with weights as small as untrained ones, by 1e-3.
_LOOK_AHEAD = 1e-4


@dataclass(frozen=True)
class Span:
    """Base tokens [start, end) of a context, which the new token number `new` (0 to N - 1) stands for."""

    start: int
    end: int
    new: int


@dataclass(frozen=True)
class Context:
    """A text as base ids, special tokens included, and the spans in it that are new tokens, in order."""

    base_ids: list[int]
    spans: list[Span]


@dataclass(frozen=True)
class DistillSettings:
    """How long and how fast. The learning rate is in units of the base table's root mean square, so that it fits every model."""

    epochs: int = 1
    contexts_per_token: int = 8
    batch_size: int = 16
    learning_rate: float = 0.2


@dataclass(frozen=True)
class Teacher:
    """The base model (stock, any architecture, its vocabulary not yet resized) and texts in which the new tokens occur."""

    model: nn.Module
    contexts: list[Context]
    settings: DistillSettings = field(default_factory=DistillSettings)


def distill(teacher: Teacher, start_ND: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Rows of the new tokens, (N, D) float32, learnt from `start_ND`. A token that no context holds keeps its start.

    The loss is the mean squared difference of the last hidden states between base ids and ids with new tokens: at the new
    token (against the last base token of its span; in a model that sees both sides, against their mean) and at all base
    tokens that see it. Base weights do not change; the model is left as it was (mode, gradients switched on or off).
    Of an encoder-decoder the encoder is used. Raises ConfigError if there is no context, DataError if the loss is not finite.
    """
    settings = teacher.settings
    contexts = _enough(teacher.contexts, len(start_ND), settings.contexts_per_token, rng)
    if not contexts:
        raise ConfigError("expand.init is 'distill', but no text that was given holds a new token; give texts of the domain, or take 'mix'")
    reader = _reader(teacher.model)
    table: Tensor = reader.get_input_embeddings().weight  # type: ignore[operator]
    rows = nn.Parameter(torch.from_numpy(start_ND.copy()).to(table.device))
    with _frozen(teacher.model):
        both_sides, scale = _sees_both_sides(reader), _embedding_scale(reader, contexts[0])
        rate = settings.learning_rate * float(table.detach().float().square().mean().sqrt())
        squares_N1 = torch.zeros(len(rows), 1, device=table.device)
        batches = [batch for _ in range(settings.epochs) for batch in _batches(contexts, settings.batch_size, rng)]
        for step, batch in enumerate(batches, 1):
            loss = _loss(reader, rows, scale, [contexts[i] for i in batch], both_sides)
            if not math.isfinite(loss.item()):
                raise DataError(f"distill: the loss is not finite at step {step}; the model or its weights are broken, or take 'mix'")
            (gradient,) = torch.autograd.grad(loss, rows)
            _adagrad_step(rows, squares_N1, gradient.coalesce(), rate)
    return rows.detach().cpu().numpy()


def contexts_of(
    encoded: Iterable[list[int]],
    pieces: list[list[int]],
    first_new: int,
    around: tuple[list[int], list[int]],
    max_tokens: int = CONTEXT_TOKENS,
) -> list[Context]:
    """Contexts of new tokens: texts as the merged tokenizer encodes them, with the pieces of each new token in its place.

    encoded: ids of texts without special tokens; pieces: base ids of each new token's text; first_new: the first new id; around: the
    ids that the model expects before and behind a text. Of words, this is what the base tokenizer gives for the text; of a
    sequence cut in other places it is another spelling of the same letters, without which DNA would have no contexts.
    Texts are cut into contexts of at most `max_tokens` base ids, never inside a new token, and at new tokens without pieces.
    """
    before, behind = around
    found: list[Context] = []
    for row in encoded:
        units: list[_Unit] = [
            (pieces[number - first_new], number - first_new) if number >= first_new else ([number], None) for number in row
        ]
        for part in _cut(units, max_tokens - len(before) - len(behind)):
            ids, spans = list(before), []
            for unit_ids, new in part:
                if new is not None:
                    spans.append(Span(len(ids), len(ids) + len(unit_ids), new))
                ids += unit_ids
            if spans:
                found.append(Context(ids + behind, spans))
    return found


_Unit = tuple[list[int], int | None]  # base ids, and the new token that stands for them


def _cut(units: list[_Unit], room: int) -> Iterator[list[_Unit]]:
    part: list[_Unit] = []
    used = 0
    for ids, new in units:
        usable = 0 < len(ids) <= room
        if not usable or used + len(ids) > room:
            yield part
            part, used = [], 0
        if usable:
            part.append((ids, new))
            used += len(ids)
    yield part


def _enough(contexts: list[Context], new_tokens: int, per_token: int, rng: np.random.Generator) -> list[Context]:
    """Contexts in random order, each taken while one of its tokens still has fewer than `per_token`."""
    seen = np.zeros(new_tokens, dtype=np.int64)
    taken: list[Context] = []
    for i in rng.permutation(len(contexts)):
        own = [span.new for span in contexts[i].spans]
        if own and seen[own].min() < per_token:
            np.add.at(seen, own, 1)
            taken.append(contexts[i])
    return taken


def _batches(contexts: list[Context], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Numbers of contexts in batches of like length, all in random order."""
    order = sorted(rng.permutation(len(contexts)).tolist(), key=lambda i: len(contexts[i].base_ids))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _reader(model: nn.Module) -> nn.Module:
    """The part that turns ids into hidden states: without a language-modelling head, of an encoder-decoder the encoder."""
    if getattr(model.config, "is_encoder_decoder", False):
        encoder: nn.Module = model.get_encoder()  # type: ignore[operator]
        return encoder
    return getattr(model, "base_model", model)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    training = model.training
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    model.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter in learning:
            parameter.requires_grad_(True)


def _hidden(reader: nn.Module, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    hidden: Tensor = reader(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    return hidden.float()


@torch.no_grad()
def _sees_both_sides(reader: nn.Module) -> bool:
    """Whether the first token's hidden state depends on those behind. Asked of the model itself: configs name it in many ways.

    Asked with fixed ids, not with a context: in one of a single token, the first token is all there is.
    """
    rows = len(reader.get_input_embeddings().weight)  # type: ignore[operator]
    one = torch.arange(8, device=next(reader.parameters()).device)[None] % rows
    two = torch.cat([one[:, :1], (one[:, 1:] + 1) % rows], dim=1)
    mask = torch.ones_like(one)
    first, other = (_hidden(reader, ids, mask)[0, 0] for ids in (one, two))
    return bool((first - other).abs().max() > _LOOK_AHEAD * first.abs().max())


@torch.no_grad()
def _embedding_scale(reader: nn.Module, context: Context) -> float:
    """The factor between a row of the table and what the embedding module gives for it: the root of D in Gemma, else 1."""
    module: nn.Module = reader.get_input_embeddings()  # type: ignore[operator]
    ids = torch.tensor(context.base_ids, device=module.weight.device)  # type: ignore[arg-type]
    rows = F.embedding(ids, module.weight).float()  # type: ignore[arg-type]
    return float((module(ids).float() * rows).sum() / rows.square().sum())


def _loss(reader: nn.Module, rows_ND: Tensor, scale: float, contexts: list[Context], both_sides: bool) -> Tensor:
    device = rows_ND.device
    base = _padded([context.base_ids for context in contexts], device)
    with torch.no_grad():
        target_BTD = _hidden(reader, *base)
    plans = [_plan(context, both_sides) for context in contexts]
    ids, mask = _padded([plan.ids for plan in plans], device)
    new = torch.full_like(ids, -1)
    for i, plan in enumerate(plans):
        for position, number in plan.new.items():
            new[i, position] = number
    with _rows_in_place(reader, new, rows_ND, scale):
        learnt_BTD = _hidden(reader, ids, mask)
    pairs = [(i, place, start, end) for i, plan in enumerate(plans) for place, start, end in plan.compared]
    row, place, start, end = torch.tensor(pairs, device=device).T
    # each place is compared with the mean over base tokens [start, end), which is one token everywhere but at new ones
    pair = torch.repeat_interleave(end - start)
    offset = torch.arange(len(pair), device=device) - (torch.cumsum(end - start, 0) - (end - start))[pair]
    read = target_BTD[row[pair], start[pair] + offset] / (end - start)[pair, None]
    target = torch.zeros(len(pairs), read.shape[1], device=device).index_add_(0, pair, read)
    return F.mse_loss(learnt_BTD[row, place], target)


@dataclass(frozen=True)
class _Plan:
    """ids: with new tokens, the first base id of a span holding its place; new: place -> new token; compared: place, base [start, end)."""

    ids: list[int]
    new: dict[int, int]
    compared: list[tuple[int, int, int]]


def _plan(context: Context, both_sides: bool) -> _Plan:
    ids: list[int] = []
    new: dict[int, int] = {}
    compared: list[tuple[int, int, int]] = []
    at = 0
    spans = iter(context.spans)
    span = next(spans, None)
    while at < len(context.base_ids):
        here = len(ids)
        ids.append(context.base_ids[at])
        if span is not None and span.start == at:
            new[here] = span.new
            compared.append((here, span.start if both_sides else span.end - 1, span.end))
            at, span = span.end, next(spans, None)
            continue
        if both_sides or new:  # before the first new token nothing can differ in a model that reads left to right
            compared.append((here, at, at + 1))
        at += 1
    return _Plan(ids, new, compared)


@contextmanager
def _rows_in_place(reader: nn.Module, new_BT: Tensor, rows_ND: Tensor, scale: float) -> Iterator[None]:
    """While open, the embedding module gives the new rows where `new_BT` is not -1.

    A hook and not `inputs_embeds`: models that scale, or that find positions from ids (RoBERTa, ESM), do so as ever.
    """
    places = new_BT >= 0

    def put(module: nn.Module, args: object, output: Tensor) -> Tensor:
        chosen = F.embedding(new_BT[places], rows_ND, sparse=True) * scale
        return output.index_put(places.nonzero(as_tuple=True), chosen.to(output.dtype))

    handle = reader.get_input_embeddings().register_forward_hook(put)  # type: ignore[operator]
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _adagrad_step(rows_ND: Tensor, squares_N1: Tensor, gradient: Tensor, rate: float) -> None:
    """Adagrad with one step size a row, for the rows that have a gradient (sparse, coalesced).

    Most tokens get only a handful of steps. Adam's first ones are the gradient's signs, which are mostly noise. One size a row keeps the
    gradient's direction, and shrinks with the token's own number of steps.
    """
    touched, values = gradient.indices()[0], gradient.values()
    squares_N1[touched] += values.square().mean(dim=1, keepdim=True)
    rows_ND[touched] -= rate * values / squares_N1[touched].sqrt().clamp(min=torch.finfo(torch.float32).tiny)


def _padded(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, (B, T) each; padded on the right with a row's own last id, which the mask hides."""
    width = max(map(len, rows))
    ids = torch.tensor([row + row[-1:] * (width - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(width, device=device) < lengths[:, None]).long()
