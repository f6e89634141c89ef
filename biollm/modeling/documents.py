"""Attention within documents: many documents in one flat row of tokens, without padding and without seeing one another.

    tokens      a a a a b b b b c c       (1, N), N = 10; nothing is padding
    positions   0 1 2 3 0 1 2 3 0 1       restart with every document
    attention   a sees a, b sees b, c sees c; a and b, equally long, are computed together

A stock Hugging Face model reads such a row when its attention is replaced by ours (transformers' attention interface). Models whose
code does more with the row than attend, such as relative position tables or statistics over it, cannot: `reads_documents` finds out.

Legend: N tokens of the row, H heads, d width of a head, b documents of one length, L that length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from biollm.core.errors import ConfigError, first_line

ATTENTION = "biollm_documents"
# Largest difference of hidden states, relative to their largest value, that rounding makes.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Documents:
    """Where the documents of a flat row lie, and who sees whom within one.

    lengths: tokens of each document, in the order of the row; equal lengths side by side are computed together.
    bidirectional: overrides the model's own direction. prefixes: per document of a causal model, how many first tokens see each other.
    """

    lengths: tuple[int, ...]
    bidirectional: bool = False
    prefixes: tuple[int, ...] | None = None
    _borders: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def borders(self, device: torch.device) -> Tensor:
        """(documents + 1,) int32: where each begins in the row, and the row's end. Copied to a device once, not for every layer."""
        if device not in self._borders:
            self._borders[device] = torch.tensor([0, *np.cumsum(self.lengths)], dtype=torch.int32, device=device)
        return self._borders[device]

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """(first document, number of documents, their length) for each run of equal lengths."""
        first = 0
        for length, run in groupby(self.lengths):
            number = sum(1 for _ in run)
            yield first, number, length
            first += number


# What the attention layers of the forward pass under way read. It stays set behind that pass, since gradient checkpointing computes
# layers anew in the backward pass, in another thread on a GPU.
_documents: Documents | None = None


def set_documents(documents: Documents) -> None:
    """Say how the next flat row is divided."""
    global _documents
    _documents = documents


def use_documents(stock: nn.Module) -> None:
    """Let a Hugging Face model attend within documents from now on; every forward pass then needs `set_documents` before it."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend_within_documents)
    stock.set_attn_implementation(ATTENTION)  # type: ignore[operator]


def position_ids(lengths: Sequence[int], offset: int = 0) -> NDArray[np.int64]:
    """(N,) positions that restart with every document, from `offset` on.

    >>> position_ids([3, 2])
    array([0, 1, 2, 0, 1])
    """
    starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    return np.asarray(np.arange(len(starts)) - starts + offset, dtype=np.int64)


def position_offset(config: Any) -> int:
    """The number of a model's first position: RoBERTa's kind counts from behind the padding id."""
    return (config.pad_token_id or 0) + 1 if config.model_type in {"roberta", "xlm-roberta", "camembert", "esm"} else 0


def attend_within_documents(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface. query: (1, H, N, d), key and value the same or with fewer heads; gives (1, N, H, d).

    Raises ConfigError for what is no self-attention over the flat row that `set_documents` described, and for extras (biases,
    capped scores, sinks) that are not computed here.
    """
    layout = _documents
    if layout is None or query.shape[0] != 1 or not key.shape[2] == query.shape[2] == sum(layout.lengths):
        raise ConfigError(f"{type(module).__name__}: attention within documents needs one flat row; was given {tuple(query.shape)}")
    if position_bias is not None or softcap is not None or s_aux is not None:
        raise ConfigError(f"{type(module).__name__}: its attention has a bias, capped scores or sinks, which cannot be packed")
    causal = not layout.bidirectional and bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    if _has_flash(query) and not dropout and layout.prefixes is None:
        q, k, v = (states.transpose(1, 2)[0] for states in (query, key, value))  # (N, H, d)
        return _attend_on_gpu(q, k, v, layout, causal, scaling, sliding_window)[None], None
    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    flat_q, flat_k, flat_v = (states.transpose(1, 2)[0] for states in (query, key, value))
    outputs, start = [], 0
    for first, number, length in layout.runs():
        q, k, v = (_rows(states, start, number, length) for states in (flat_q, flat_k, flat_v))  # (b, H, L, d)
        prefixes = layout.prefixes[first : first + number] if layout.prefixes and causal else None
        mask = _seen(length, causal, sliding_window, prefixes, q.device)
        attended = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal and mask is None and length > 1, scale=scaling
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
        start += number * length
    return torch.cat(outputs)[None], None


def reads_documents(stock: nn.Module, rows: Sequence[NDArray[np.int64]]) -> str | None:
    """Why a model cannot read packed documents, or None if it can: whether some documents in one row come out as each alone.

    rows: ids of a few documents of different lengths, with every special token that will occur (a mask token changes more than
    itself in some models). The model is left as it was.
    """
    if stock.config.is_encoder_decoder:  # type: ignore[union-attr]
        return "an encoder-decoder: its relative positions are counted along the whole row"
    if not getattr(stock, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    device = next(stock.parameters()).device
    encoder: Any = stock.base_model
    was_training, attention, lengths = stock.training, stock.config._attn_implementation, tuple(len(row) for row in rows)  # type: ignore[union-attr]
    stock.eval()
    with torch.no_grad():
        alone = torch.cat([encoder(input_ids=torch.from_numpy(row)[None].to(device)).last_hidden_state[0] for row in rows])
        try:
            use_documents(stock)
            set_documents(Documents(lengths))
            flat = torch.from_numpy(np.concatenate(rows))[None].to(device)
            positions = torch.from_numpy(position_ids(lengths, position_offset(stock.config)))[None].to(device)
            packed = encoder(input_ids=flat, position_ids=positions).last_hidden_state[0]
        except (ConfigError, TypeError, ValueError, RuntimeError, IndexError) as error:
            return first_line(error)
        finally:
            stock.set_attn_implementation(attention)  # type: ignore[operator]
            stock.train(was_training)
    difference = float((packed - alone).abs().max() / alone.abs().max())
    return None if difference <= _TOLERANCE else f"packed documents come out differently (by {difference:.1e} of the largest value)"


def _rows(flat: Tensor, start: int, number: int, length: int) -> Tensor:
    """(b, H, L, d): a view of equally long documents that stand side by side in (N, H, d)."""
    return flat.narrow(0, start, number * length).view(number, length, *flat.shape[1:]).transpose(1, 2)


def _seen(length: int, causal: bool, window: int | None, prefixes: Sequence[int] | None, device: torch.device) -> Tensor | None:
    """(L, L) or (b, 1, L, L), true where a token (row) sees another (column); None where the kernel needs no mask."""
    if prefixes is None and (window is None or window >= length):
        return None
    at = torch.arange(length, device=device)
    seen = (at[:, None] >= at) if causal else torch.ones(length, length, dtype=torch.bool, device=device)
    if window is not None:
        seen = seen & ((at[:, None] - at).abs() < window)
    if prefixes is None:
        return seen
    inside = at < torch.tensor(prefixes, device=device)[:, None]  # (b, L)
    return (seen | (inside[:, :, None] & inside[:, None, :]))[:, None]


def _has_flash(query: Tensor) -> bool:
    """Whether FlashAttention computes it: in half precision, on GPUs from Ampere (2020) on."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    return torch.cuda.get_device_capability(query.device)[0] >= 8


def _attend_on_gpu(q: Tensor, k: Tensor, v: Tensor, layout: Documents, causal: bool, scaling: float | None, window: int | None) -> Tensor:
    """FlashAttention over documents of any lengths in one call. q: (N, H, d), k and v the same or with fewer heads; half precision."""
    from torch.nn.attention.varlen import varlen_attn

    borders, longest = layout.borders(q.device), max(layout.lengths)
    reach = -1 if window is None else window - 1
    seen, shared = (reach, 0 if causal else reach), q.shape[1] != k.shape[1]
    attended = varlen_attn(q, k, v, borders, borders, longest, longest, scale=scaling, window_size=seen, enable_gqa=shared)
    assert isinstance(attended, Tensor), "nothing but the output was asked for"
    return attended
