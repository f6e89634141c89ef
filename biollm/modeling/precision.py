"""In what numbers a model computes, and what a lower precision costs: measured, never assumed.

fp32   what the weights are; on a CPU by oneDNN's kernels where they give the same result
bf16   products in bfloat16, where the hardware has instructions for it
int8   on a CPU: as many layers in 8-bit integers as the stated fidelity allows, the rest in bf16 (or fp32)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from biollm.core.errors import ConfigError, ResourceError
from biollm.core.machine import processor_flags
from biollm.core.seeding import generator
from biollm.modeling.encoding import IntArray
from biollm.modeling.packed_linear import Int8Linear, PackedLinear

Precision = Literal["auto", "fp32", "bf16", "int8"]
Computed = Literal["fp32", "bf16", "int8"]
# Largest difference of token vectors, relative to their largest value, of the same model by other fp32 kernels.
_TOLERANCE = 2e-5
_SAMPLE_ROWS, _SAMPLE_TOKENS = 24, 64
_TRIED_ROWS = 2  # of the sample, where kernels are compared that differ in rounding alone


@dataclass(frozen=True)
class Fidelity:
    """Cosines between mean vectors of sample rows in fp32 and in a lower precision.

    int8_layers of all linear_layers compute in 8-bit integers. The sample: random tokens of the vocabulary.
    """

    mean_cosine: float
    min_cosine: float
    sample_rows: int
    int8_layers: int
    linear_layers: int


def has_bf16() -> bool:
    """Whether the hardware at hand, the GPU if there is one, computes in bfloat16 natively."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))  # older GPUs compute it by fp32, slower
    return not processor_flags().isdisjoint({"avx512_bf16", "amx_bf16"})


def set_precision(
    body: nn.Module, precision: Precision, sample: Sequence[IntArray], min_cosine: float, *, keep_modules: bool
) -> tuple[Computed, Fidelity | None]:
    """Let a model compute in a precision from now on; what it came to, and what it costs (None for fp32).

    body: gives `last_hidden_state` for input_ids; sample: rows of ids; keep_modules: its layers are of kinds that cannot be exchanged
    (adapters). Raises ResourceError if the hardware lacks it; ConfigError for int8 where it cannot be, or costs more than min_cosine.
    """
    chosen: Computed = ("bf16" if has_bf16() else "fp32") if precision == "auto" else precision
    on_gpu = next(body.parameters()).is_cuda
    if chosen == "bf16" and not has_bf16():
        raise ResourceError("precision='bf16': this machine has no instructions for bfloat16, and would be slower; use 'fp32' or 'auto'")
    if chosen == "int8" and (on_gpu or keep_modules):
        raise ConfigError(
            "precision='int8' is for whole models on a CPU; "
            + ("use 'bf16' on a GPU" if on_gpu else "fold the adapter into its base first: biollm merge-adapter")
        )
    layers = {} if on_gpu or keep_modules else linear_layers(body)
    if chosen == "fp32":
        _try_packed(body, layers, sample[:_TRIED_ROWS])
        return "fp32", None
    exact = _mean_vectors(body, sample)
    if on_gpu or keep_modules:
        body.to(torch.bfloat16)
        return chosen, _fidelity(exact, _mean_vectors(body, sample), 0, 0)
    if chosen == "int8":
        return chosen, _to_int8(body, layers, sample, exact, min_cosine)
    _exchange(body, layers, lambda linear: PackedLinear(linear, torch.bfloat16))
    return chosen, _fidelity(exact, _mean_vectors(body, sample), 0, len(layers))


def draw_sample(ordinary_ids: IntArray, wrap: Callable[[IntArray], IntArray], longest: int) -> list[IntArray]:
    """Rows of random tokens with special tokens about them, always the same."""
    rng = generator(0, "precision sample")
    return [wrap(rng.choice(ordinary_ids, min(_SAMPLE_TOKENS, longest)).astype(np.int64)) for _ in range(_SAMPLE_ROWS)]


def linear_layers(body: nn.Module) -> dict[str, nn.Linear]:
    """The plain linear layers of a model in fp32, by name."""
    return {name: m for name, m in body.named_modules() if type(m) is nn.Linear and m.weight.dtype == torch.float32}


def _try_packed(body: nn.Module, layers: dict[str, nn.Linear], sample: Sequence[IntArray]) -> None:
    """oneDNN's fp32 layers, if the model still computes the same with them; else it stays as it is."""
    if not torch._C._has_mkldnn or not layers:
        return
    before = _mean_vectors(body, sample)
    _exchange(body, layers, lambda linear: PackedLinear(linear, torch.float32))
    try:
        difference = float((_mean_vectors(body, sample) - before).abs().max() / before.abs().max())
    except (RuntimeError, NotImplementedError):  # code that computes with a layer's weight itself
        difference = float("inf")
    if not difference <= _TOLERANCE:
        _exchange(body, layers, lambda linear: linear)


def _to_int8(body: nn.Module, layers: dict[str, nn.Linear], sample: Sequence[IntArray], exact: Tensor, min_cosine: float) -> Fidelity:
    """Layers of like names (of all blocks) into integers, those that cost least first, while the fidelity holds."""
    with _column_ranges(layers) as ranges:
        _mean_vectors(body, sample)
    layers = {name: layer for name, layer in layers.items() if name in ranges}  # no token reaches a pooler of another objective
    rest = torch.bfloat16 if has_bf16() else torch.float32
    _exchange(body, layers, lambda linear: PackedLinear(linear, rest))
    groups: dict[str, list[str]] = {}
    for name in layers:
        groups.setdefault(re.sub(r"\d+", "*", name), []).append(name)

    def measure(names: list[str], bound: dict[str, nn.Linear]) -> Fidelity:
        for name in names:
            _put(body, name, Int8Linear(bound[name], ranges[name]))
        return _fidelity(exact, _mean_vectors(body, sample), 0, len(layers))

    def withdraw(names: list[str]) -> None:
        for name in names:
            _put(body, name, PackedLinear(layers[name], rest))

    losses: dict[str, float] = {}
    for group, names in groups.items():
        losses[group] = (1 - measure(names, layers).min_cosine) / sum(layers[n].weight.numel() for n in names)
        withdraw(names)
    kept, found = 0, None
    for group in sorted(groups, key=losses.__getitem__):
        tried = measure(groups[group], layers)
        if tried.min_cosine >= min_cosine:
            kept, found = kept + len(groups[group]), tried
        else:
            withdraw(groups[group])
    if found is None:
        raise ConfigError(
            f"precision='int8': no layer of this model can be computed in integers at a cosine of {min_cosine} to fp32; "
            "lower int8_min_cosine, or use another precision"
        )
    return Fidelity(found.mean_cosine, found.min_cosine, found.sample_rows, kept, len(layers))


@contextmanager
def _column_ranges(layers: dict[str, nn.Linear]) -> Iterator[dict[str, Tensor]]:
    """Within it, the largest absolute value of each input column of each layer that tokens reach is noted."""
    ranges: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found = inputs[0].detach().abs().reshape(-1, inputs[0].shape[-1]).amax(dim=0)
            ranges[name] = torch.maximum(ranges[name], found) if name in ranges else found

        return note

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield ranges
    finally:
        for hook in hooks:
            hook.remove()


def _exchange(body: nn.Module, layers: dict[str, nn.Linear], make: Callable[[nn.Linear], nn.Module]) -> None:
    for name, layer in layers.items():
        _put(body, name, make(layer))


def _put(body: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(body.get_submodule(parent), last, layer)


def _mean_vectors(body: nn.Module, sample: Sequence[IntArray]) -> Tensor:
    """(rows, D) float32."""
    device = next(body.parameters()).device
    with torch.inference_mode():
        hidden = [body(input_ids=torch.from_numpy(row)[None].to(device)).last_hidden_state[0].float().mean(dim=0) for row in sample]
    return torch.stack(hidden)


def _fidelity(exact: Tensor, found: Tensor, int8_layers: int, layers: int) -> Fidelity:
    cosines = torch.nn.functional.cosine_similarity(exact.double(), found.double())
    return Fidelity(float(cosines.mean()), float(cosines.min()), len(exact), int8_layers, layers)
