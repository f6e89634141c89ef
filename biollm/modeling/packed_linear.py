"""Linear layers for inference on a CPU, by oneDNN's kernels over weights that are laid out once: fp32, bfloat16, or 8-bit integers.

oneDNN computes fp32 about twice as fast as torch's own linear where that calls MKL on a processor of another maker (AMD EPYC 9005:
95 -> 190 GFLOP/s a core), bfloat16 in 430 and 8-bit integers in 800 where the processor has instructions for them. All take and give
fp32, so that norms, residuals and attention stay in it.

8-bit integers: weights with one scale an output channel; inputs with one scale and zero point a token, so that a token's vector does not
depend on its neighbours. Before that, input columns are evened out against the weights' (SmoothQuant, Xiao et al. 2023), which changes
nothing but the rounding. Legend: N tokens, K inputs, M outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from biollm.core.compiled import compiled
from biollm.core.machine import processor_flags

P = ParamSpec("P")
R = TypeVar("R")
_ZERO_POINT_LEVELS = 255
# x86 without instructions for it adds two products in 16 bits, where weights of 8 bits overflow.
_WEIGHT_LEVELS = 63 if "avx2" in processor_flags() and processor_flags().isdisjoint({"avx512_vnni", "avx_vnni", "amx_int8"}) else 127
# Share of an input column's range that is moved into the weights.
_SMOOTHING = 0.5
# Rows for which the weights' layout is chosen; others are computed too.
_USUAL_ROWS = 512


def _compiled(function: Callable[P, R]) -> Callable[P, R]:
    return compiled(function, fastmath={"nnan", "ninf", "nsz", "arcp", "contract", "reassoc"}, error_model="numpy")


class PackedLinear(nn.Module):
    """What stands for an nn.Linear. Its `weight` has shape and type only, for code that asks for them."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = torch.empty(linear.weight.shape, dtype=linear.weight.dtype, device="meta")
        self.bias = linear.bias
        self._dtype = dtype
        self._bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), _USUAL_ROWS)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(inputs.to(self._dtype), self._packed, self._bias, "none", [], "")
        return out.to(inputs.dtype)


class Int8Linear(nn.Module):
    """An nn.Linear in 8-bit integers. column_ranges: (K,) largest absolute value of each input column on a sample."""

    def __init__(self, linear: nn.Linear, column_ranges: Tensor) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = torch.empty(linear.weight.shape, dtype=linear.weight.dtype, device="meta")
        self.bias = linear.bias
        weight = linear.weight.detach().float()
        ranges, own = column_ranges.clamp(min=1e-5), weight.abs().amax(dim=0).clamp(min=1e-5)
        smooth = own ** (1 - _SMOOTHING) / ranges**_SMOOTHING
        weight = weight / smooth
        scales = (weight.abs().amax(dim=1) / _WEIGHT_LEVELS).clamp(min=1e-12)
        whole = (weight / scales[:, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qlinear_prepack(whole, [_USUAL_ROWS, self.in_features])
        self._scales, self._zeros = scales, torch.zeros(self.out_features, dtype=torch.int64)
        self._smooth = smooth.numpy()
        self._sums = (whole.float().sum(dim=1) * scales).numpy()
        self._bias = (linear.bias.detach().float() if linear.bias is not None else torch.zeros(self.out_features)).numpy()

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.reshape(-1, self.in_features).contiguous()
        integers = torch.empty(flat.shape, dtype=torch.uint8)
        steps, zeros = np.empty(len(flat), dtype=np.float32), np.empty(len(flat), dtype=np.float32)
        _quantise(flat.numpy(), self._smooth, integers.numpy(), steps, zeros)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            integers, 1.0, 0, self._packed, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        _finish(out.numpy(), steps, zeros, self._sums, self._bias)
        return out.view(*inputs.shape[:-1], self.out_features)


@_compiled
def _quantise(
    x: NDArray[np.float32], smooth: NDArray[np.float32], q: NDArray[np.uint8], steps: NDArray[np.float32], zeros: NDArray[np.float32]
) -> None:
    """Rows of x (N, K) as integers q with x * smooth = step (q - zero)."""
    rows, columns = x.shape
    for i in range(rows):
        low, high = np.float32(0), np.float32(0)
        for j in range(columns):
            value = x[i, j] * smooth[j]
            low, high = min(low, value), max(high, value)
        step = (high - low) / np.float32(_ZERO_POINT_LEVELS)
        if step == 0:
            step = np.float32(1)
        inverse = np.float32(1) / step
        zero = np.floor(-low * inverse + np.float32(0.5))
        steps[i], zeros[i] = step, zero
        shift = zero + np.float32(0.5)
        for j in range(columns):
            value = x[i, j] * smooth[j] * inverse + shift
            q[i, j] = np.uint8(np.int32(min(max(value, np.float32(0)), np.float32(_ZERO_POINT_LEVELS))))


@_compiled
def _finish(
    y: NDArray[np.float32],
    steps: NDArray[np.float32],
    zeros: NDArray[np.float32],
    sums: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> None:
    """Products of integers (N, M) into outputs, in place."""
    rows, columns = y.shape
    for i in range(rows):
        step, zero = steps[i], zeros[i]
        for j in range(columns):
            y[i, j] = step * (y[i, j] - zero * sums[j]) + bias[j]
