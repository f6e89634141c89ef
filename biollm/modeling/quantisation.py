"""Models in few bits: a frozen base held in four (bitsandbytes), and training as if with integer weights (torchao).

A folder trained for quantisation is a stock model folder with `quantisation.json` beside.
"""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from biollm.core.errors import ConfigError, first_line
from biollm.core.files import read_sidecar
from biollm.core.progress import quiet_libraries

QUANTISATION = "quantisation.json"
Scheme = Literal["int8_weights", "int4_weights", "int8_activations_int8_weights", "int8_activations_int4_weights"]


class FourBit(BaseModel):
    """How bitsandbytes holds the frozen base of a QLoRA adapter (Dettmers 2023): 4-bit NormalFloat, scales quantised too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compute_dtype: Literal["float32", "bfloat16"]
    skipped: list[str]  # modules that stay as they are

    def load_options(self) -> dict[str, Any]:
        """Raises ConfigError if bitsandbytes is not installed, or does not run here."""
        require("bitsandbytes", "qlora")
        from transformers import BitsAndBytesConfig

        _run_four_bit()
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, self.compute_dtype),
            llm_int8_skip_modules=[rf"(.*\.)?{name}" for name in (*self.skipped, "lm_head")],
        )
        return {"quantization_config": config}


class QuantisationSpec(BaseModel):
    """`quantisation.json`: the integer format that a model folder was trained for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: Scheme
    group_size: int  # weights that share a scale (int4_weights); int8 weights have one scale per output
    skipped: list[str]  # modules that stay as they are


def require(package: Literal["torchao", "bitsandbytes"], method: str) -> None:
    """Raises ConfigError saying how to install what a method needs."""
    if importlib.util.find_spec(package) is None:
        extra = {"torchao": "qat", "bitsandbytes": "qlora"}[package]
        raise ConfigError(
            f"{method} needs the package {package}, which is not installed; install it with: pip install 'biollm[{extra}]', "
            "or choose another method"
        )


def _run_four_bit() -> None:
    """One 4-bit product, forwards and backwards: bitsandbytes may be installed and yet have no kernels for this machine."""
    quiet_libraries()
    import bitsandbytes

    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.inference_mode(False), torch.enable_grad():
            layer = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32).to(device)
            layer(torch.ones(1, 64, device=device, requires_grad=True)).sum().backward()
    except Exception as error:  # whatever a missing kernel raises: it names no kind
        reason = first_line(error)
        raise ConfigError(f"qlora: bitsandbytes is installed, but does not run on this machine ({reason}); use lora") from error


def steady_four_bit(stock: nn.Module) -> None:
    """Keep a 4-bit model, if it is one, as it is in inference too.

    On CPUs with avx512_bf16, bitsandbytes 0.50 rewrites the weights at the first forward pass without gradients: their scales are
    rounded again, so that a model that was looked at trains on another base than one that was not.
    """
    for module in stock.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            cast(Any, module).support_avx512bf16_for_cpu = False


def fake_quantise(stock: nn.Module, spec: QuantisationSpec) -> None:
    """Let every linear layer of a model, in place, compute as it would with integer weights; gradients pass straight through.

    The weights stay floating-point numbers under their names. Real quantisation (torchao's quantize_ with the same scheme) gives
    the same outputs. Raises ConfigError if torchao is missing, or the model has nothing that it can quantise.
    """
    require("torchao", "qat")
    quiet_libraries()
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    chosen = quantised_layers(stock, spec)
    if not chosen:
        raise ConfigError(
            f"qat: {type(stock).__name__} has no linear layer that torchao can quantise (GPT-2's are Conv1D); choose another base or method"
        )
    if spec.scheme.endswith("int4_weights"):
        for name in sorted(chosen):
            if (width := cast(nn.Linear, stock.get_submodule(name)).in_features) % spec.group_size:
                raise ConfigError(
                    f"qat_group_size is {spec.group_size}, but {name} has {width} inputs; expected a number that divides them all"
                )
    quantize_(stock, QATConfig(torchao_config(spec), step="prepare"), filter_fn=lambda module, name: name in chosen)


def quantised_layers(stock: nn.Module, spec: QuantisationSpec) -> set[str]:
    """The linear layers that a scheme concerns: all but those that stay as they are and the output table."""
    head = cast(Any, stock).get_output_embeddings() if hasattr(stock, "get_output_embeddings") else None
    prefix = f"{getattr(stock, 'base_model_prefix', '')}."  # a headless model has its layers under shorter names
    skipped = {name for given in spec.skipped for name in (given, given.removeprefix(prefix))}
    return {
        name
        for name, module in stock.named_modules()
        if isinstance(module, nn.Linear) and module is not head and not any(name == s or name.startswith(f"{s}.") for s in skipped)
    }


def torchao_config(spec: QuantisationSpec) -> Any:
    """What torchao's quantize_ takes to make the integers that a folder was trained for."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerAxis, PerGroup

    four_bit = spec.scheme.endswith("int4_weights")
    bits, granularity = (cast(Any, torch).int4, PerGroup(spec.group_size)) if four_bit else (torch.int8, PerAxis(0))
    config = Int8DynamicActivationIntxWeightConfig if spec.scheme.startswith("int8_activations") else IntxWeightOnlyConfig
    return config(weight_dtype=bits, **{_granularity_key(config): granularity})


def _granularity_key(config: Any) -> str:
    return "weight_granularity" if "weight_granularity" in inspect.signature(config).parameters else "granularity"


def apply_stored_quantisation(stock: nn.Module, folder: Path) -> None:
    """Let a model compute as its folder was trained to, if it was trained for quantisation."""
    if (folder / QUANTISATION).is_file():
        fake_quantise(stock, read_sidecar(folder / QUANTISATION, QuantisationSpec))
