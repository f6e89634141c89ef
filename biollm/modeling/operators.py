"""How features of tracks enter a model: operators on its token embeddings, each without any effect at the start.

Whatever the operator, features that are zero add nothing, before and after training: nothing in here has a bias that a token without values
could feel (by cross attention it feels those of its neighbours). So input without tracks always takes the path of the stock model, bit for
bit. A model that reads one way sees tracks up to its token alone.

Legend: B records, T tokens, D model width, C channels, E encoded values of a channel, F features, W = encoded features of a token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from biollm.modeling.channels import FEATURES_PER_CHANNEL, LEVEL, PRESENT, SITES, FusionSpec, OperatorName

_HEADS, _HEAD_WIDTH = 4, 16
_LEAST_BLOCK = 16
_HEAD_REACH = 64  # tokens on either side whose values a hidden one is guessed from
_PRIOR_SITES = 0.1  # how much the channel's mean weighs in that guess, where the nearest site weighs 1
_PACE = 20.0  # the few numbers that shape the guess learn so much faster than weights
_LEAST_SHARE = 0.01


class ValueEncoder(nn.Module):
    """Features of each channel with its level encoded beside them: (…, F) to (…, W); zero where the channel has no value.

    linear: the features as they are; mlp: a small network of each channel's own; fourier: sine and cosine of octaves over the channel's
    range (Tancik et al. 2020); bins: which of its bins (see channels.py).
    """

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        self._kind, self._channels = spec.values, len(spec.channels)
        width = 0
        if spec.values == "mlp":
            width = spec.value_width
            self.up = nn.Parameter(torch.randn(self._channels, width))
            self.bias = nn.Parameter(torch.randn(self._channels, width))
            self.mix = nn.Parameter(torch.randn(self._channels, width, width) / math.sqrt(width))
        elif spec.values == "fourier":
            width = 2 * (spec.value_width // 2)
            ends = [((c.low - c.mean) / c.scale, (c.high - c.mean) / c.scale) for c in spec.channels]
            self._range = torch.tensor(ends)
        elif spec.values == "bins":
            most = max(len(c.edges) for c in spec.channels)
            width = most + 1
            edges = [[(e - c.mean) / c.scale for e in c.edges] + [math.inf] * (most - len(c.edges)) for c in spec.channels]
            self._edges = torch.tensor(edges).reshape(self._channels, most)
        self._encoded = width
        self.width = self._channels * (FEATURES_PER_CHANNEL + width)

    def forward(self, features: Tensor) -> Tensor:
        """(…, F) to (…, W), in float32: rounded to bfloat16 first, high octaves and bins would be others. (So _range and _edges are no
        buffers, which a model in bfloat16 has rounded.)"""
        features = features.float()
        if self._encoded == 0:
            return features
        by_channel = features.view(*features.shape[:-1], self._channels, FEATURES_PER_CHANNEL)
        level, present = by_channel[..., LEVEL], by_channel[..., PRESENT].unsqueeze(-1)
        encoded: Tensor = torch.cat([by_channel, self._encode(level) * present], dim=-1)
        return encoded.flatten(-2)

    def _encode(self, level: Tensor) -> Tensor:
        """(…, C) to (…, C, E)."""
        if self._kind == "mlp":
            hidden = functional.silu(level.unsqueeze(-1) * self.up + self.bias)
            mixed: Tensor = torch.einsum("...ce,cef->...cf", hidden, self.mix.float())
            return mixed
        if self._kind == "fourier":
            low, high = self._range.to(level.device).unbind(dim=1)
            turn = math.pi * ((level - low) / (high - low).clamp(min=1e-6)).unsqueeze(-1)
            turns = turn * 2.0 ** torch.arange(self._encoded // 2, device=level.device, dtype=level.dtype)
            return torch.cat([turns.sin(), turns.cos()], dim=-1)
        bins = (level.unsqueeze(-1) >= self._edges.to(level.device)).sum(-1)
        return functional.one_hot(bins, self._encoded).to(level.dtype)


class Add(nn.Module):
    """h + W f."""

    def __init__(self, spec: FusionSpec, width: int) -> None:
        super().__init__()
        self.project = _silent(width, spec.hidden_size)

    def forward(self, embeddings: Tensor, encoded: Tensor, present: Tensor, documents: Tensor | None) -> Tensor:
        added: Tensor = self.project(encoded)
        return embeddings + added


class Gate(nn.Module):
    """h + W (sigmoid(G h) * f): the token itself decides how much of each feature enters."""

    def __init__(self, spec: FusionSpec, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(spec.hidden_size, width)
        self.project = _silent(width, spec.hidden_size)

    def forward(self, embeddings: Tensor, encoded: Tensor, present: Tensor, documents: Tensor | None) -> Tensor:
        added: Tensor = self.project(torch.sigmoid(self.gate(embeddings)) * encoded)
        return embeddings + added


class Film(nn.Module):
    """h * (1 + S f) + W f: features scale the token embedding and shift it (Perez et al. 2018)."""

    def __init__(self, spec: FusionSpec, width: int) -> None:
        super().__init__()
        self.scale = _silent(width, spec.hidden_size)
        self.shift = _silent(width, spec.hidden_size)

    def forward(self, embeddings: Tensor, encoded: Tensor, present: Tensor, documents: Tensor | None) -> Tensor:
        fused: Tensor = embeddings * (1 + self.scale(encoded)) + self.shift(encoded)
        return fused


class CrossAttention(nn.Module):
    """h + W attention(h, features of the tokens around): a token sees the tracks of its neighbourhood, of its own document alone.

    An empty key whose value is zero stands beside the neighbours, so that a token may look at nothing, and must where there is nothing.
    """

    def __init__(self, spec: FusionSpec, width: int) -> None:
        super().__init__()
        inner = _HEADS * _HEAD_WIDTH
        self._reach, self._one_way = spec.neighbours, spec.one_way
        self.query = nn.Linear(spec.hidden_size, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.distance = nn.Parameter(torch.zeros(_HEADS, 2 * spec.neighbours + 1))
        self.project = _silent(inner, spec.hidden_size)

    def forward(self, embeddings: Tensor, encoded: Tensor, present: Tensor, documents: Tensor | None) -> Tensor:
        batch, tokens, _ = embeddings.shape
        size = max(self._reach, _LEAST_BLOCK)  # tokens ask in blocks: their neighbours stand in the block, before it and behind it
        blocks = -(-tokens // size)

        def in_blocks(rows: Tensor) -> Tensor:
            """(B, T, X) to (B, blocks, size, X)."""
            return functional.pad(rows, (0, 0, 0, blocks * size - tokens)).view(batch, blocks, size, -1)

        def around(rows: Tensor) -> Tensor:
            """(B, T, X) to (B, blocks, 3 size + 1, X), the last row empty. Not by `unfold`: torch.compile gets its gradient wrong."""
            padded = functional.pad(in_blocks(rows), (0, 0, 0, 0, 1, 1))
            return torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:], torch.zeros_like(padded[:, 2:, :1])], dim=2)

        def by_head(rows: Tensor) -> Tensor:
            """(B, blocks, N, X) to (B, blocks, heads, N, X / heads)."""
            return rows.view(batch, blocks, -1, _HEADS, _HEAD_WIDTH).transpose(2, 3)

        place = torch.arange(-size, 2 * size + 1, device=embeddings.device)
        nothing = place == 2 * size
        offset = place - torch.arange(size, device=embeddings.device).unsqueeze(1)
        seen = (offset >= -self._reach) & (offset <= (0 if self._one_way else self._reach))  # (size, 3 size + 1)
        seen = seen & around(present.unsqueeze(-1).to(encoded.dtype)).bool().transpose(2, 3)
        if documents is not None:
            numbered = documents.unsqueeze(-1) + 1  # what lies around the row is document 0
            seen &= in_blocks(numbered) == around(numbered).transpose(2, 3)
        query = by_head(in_blocks(self.query(embeddings) / math.sqrt(_HEAD_WIDTH)))
        keys, values = (by_head(rows) for rows in around(torch.cat([self.key(encoded), self.value(encoded)], dim=-1)).chunk(2, dim=-1))
        scores = query @ keys.transpose(-1, -2)
        scores += self.distance[:, (offset + self._reach).clamp(0, 2 * self._reach)].masked_fill(nothing, 0)
        scores += torch.zeros(seen.shape, dtype=scores.dtype, device=seen.device).masked_fill(~(seen | nothing), float("-inf")).unsqueeze(2)
        weights = scores.softmax(dim=-1)
        attended = (weights @ values).transpose(2, 3).reshape(batch, blocks * size, -1)[:, :tokens]
        added: Tensor = self.project(attended)
        return embeddings + added


OPERATORS: dict[OperatorName, type[nn.Module]] = {"add": Add, "gate": Gate, "film": Film, "cross_attention": CrossAttention}


class Fusion(nn.Module):
    """Everything that fusion adds to a model: encoded values, the operator, and for a model that imputes the head that predicts them."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        self.values = ValueEncoder(spec)
        self.operator = OPERATORS[spec.operator](spec, self.values.width)
        self.head = TrackHead(spec) if spec.imputes else None

    def forward(self, embeddings_BTD: Tensor, features_BTF: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Token embeddings with the features in them. documents: the number of each token's document in a packed row."""
        own_type = next(self.parameters()).dtype
        present = features_BTF[..., PRESENT::FEATURES_PER_CHANNEL].any(dim=-1)
        fused: Tensor = self.operator(embeddings_BTD.to(own_type), self.values(features_BTF).to(own_type), present, documents_BT)
        return fused.to(embeddings_BTD.dtype)

    def learn_to_impute(self, spec: FusionSpec) -> None:
        """Give it the head that predicts track values, if it has none."""
        if self.head is None:
            self.head = TrackHead(spec)

    def predict(self, hidden_BTD: Tensor, features_BTF: Tensor, documents_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Each (B, T, C) in float32, the logit of a share or a standardised value: by what the model has read alone, which training asks
        too; and the best guess, by the values around as well. A token's own features are not read."""
        assert self.head is not None, "asked only of models that impute"
        found: tuple[Tensor, Tensor] = self.head(hidden_BTD, features_BTF, documents_BT)
        return found


class TrackHead(nn.Module):
    """Predicts hidden values twice.

    By what the model has read alone: so that training makes it read the tracks. And as well as it can, which the model itself does not
    learn from: it would leave the work to the guess. That guess is Shepard's (1968) at first: the mean of the values around weighted by
    1 / distance, in tokens of the same document, drawn to the channel's mean where few stand around. It learns to which power of the
    distance, how far drawn, and what the model's reading and the other channels add.
    """

    log_distance: Tensor
    elsewhere: Tensor
    mean: Tensor
    scale: Tensor
    is_share: Tensor

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        channels = len(spec.channels)
        distance = torch.arange(-_HEAD_REACH, _HEAD_REACH + 1).abs()
        self.register_buffer("log_distance", distance.clamp(min=1).log(), persistent=False)
        self.register_buffer("elsewhere", (distance > 0).float(), persistent=False)
        self.power = nn.Parameter(torch.full((channels, 1), 1 / _PACE))
        self.log_prior = nn.Parameter(torch.full((channels,), math.log(_PRIOR_SITES) / _PACE))
        width = spec.read_size or spec.hidden_size
        self.add = _silent(width + channels, channels)
        self.read = nn.Linear(width, channels)
        nn.init.zeros_(self.read.weight)
        with torch.no_grad():
            self.read.bias.copy_(torch.tensor([_logit(c.mean) if c.is_share else 0.0 for c in spec.channels]))
        self.register_buffer("mean", torch.tensor([c.mean for c in spec.channels]), persistent=False)
        self.register_buffer("scale", torch.tensor([c.scale for c in spec.channels]), persistent=False)
        self.register_buffer("is_share", torch.tensor([c.is_share for c in spec.channels]), persistent=False)

    def forward(self, hidden: Tensor, features: Tensor, documents: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, C) by reading alone, and (B, T, C) the best guess."""
        by_channel = features.float().view(*features.shape[:-1], -1, FEATURES_PER_CHANNEL)
        sites = by_channel[..., SITES].expm1()
        both = _around(torch.cat([sites, sites * by_channel[..., LEVEL]], dim=-1), _HEAD_REACH)
        weight, weighted = both.chunk(2, dim=2)
        nearness = (-_PACE * self.power.float() * self.log_distance).exp() * self.elsewhere
        if documents is not None:
            nearness = nearness * _same_document(documents, _HEAD_REACH).unsqueeze(2)
        guess = (nearness * weighted).sum(-1) / ((nearness * weight).sum(-1) + (_PACE * self.log_prior.float()).exp())
        share = (guess * self.scale + self.mean).clamp(_LEAST_SHARE, 1 - _LEAST_SHARE)
        first = torch.where(self.is_share, share.logit(), guess)
        own_type = self.read.weight.dtype
        added: Tensor = self.add(torch.cat([hidden.detach(), guess.to(hidden.dtype)], dim=-1).to(own_type))
        read: Tensor = self.read(hidden.to(own_type))
        return read.float(), first + added.float()


def _logit(share: float) -> float:
    share = min(max(share, _LEAST_SHARE), 1 - _LEAST_SHARE)
    return math.log(share / (1 - share))


def _around(rows: Tensor, reach: int) -> Tensor:
    """(B, T, X) to (B, T, X, 2 reach + 1): each token's neighbourhood, zero beyond the row."""
    return functional.pad(rows, (0, 0, reach, reach)).unfold(1, 2 * reach + 1, 1)


def _same_document(documents: Tensor, reach: int) -> Tensor:
    """(B, T) to (B, T, 2 reach + 1): whether each neighbour stands in the token's own document."""
    numbered = documents.unsqueeze(-1) + 1  # what lies around the row is document 0
    return _around(numbered, reach)[:, :, 0] == numbered


def _silent(inputs: int, outputs: int) -> nn.Linear:
    """A layer that gives zero until it is trained, and always for zero input."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer
