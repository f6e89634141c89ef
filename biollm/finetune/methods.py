"""The ways of fine-tuning: each leaves exactly its own parameters to be trained, and says what it cannot do before it begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from biollm.core.errors import ConfigError
from biollm.core.files import write_json
from biollm.finetune.config import MethodConfig, prompt_tokens
from biollm.modeling.adapters import attach_peft, inner, kind_of, load_peft, new_row_ids, save_adapter
from biollm.modeling.bottleneck import BottleneckModel, BottleneckSpec
from biollm.modeling.fusion import FusedModel, save_fusion
from biollm.modeling.loading import copy_tokenizer, load_model, save_model
from biollm.modeling.quantisation import QUANTISATION, FourBit, QuantisationSpec, fake_quantise

# What heads and poolers are called: they stay in full precision where the rest is quantised.
_HEADS = ["classifier", "score", "pooler", "qa_outputs"]
_SMALLEST_BF16_CAPABILITY = 8  # CUDA


def load_for(source: Path, kind: str, method: MethodConfig, **options: Any) -> FusedModel:
    """The model of a folder as a method needs it: in 4 bits for qlora, in float32 else. Arguments as of load_model.

    Raises ConfigError if qlora cannot run here.
    """
    four_bit = _four_bit(method)
    return load_model(source, kind, **options | (four_bit.load_options() if four_bit else {}))


def output_modules(stock: nn.Module) -> list[str]:
    """What a classification model has on top of its encoder, by name, and the pooler that some encoders carry.

    Empty for language models, whose head belongs to the base.
    """
    if kind_of(stock) not in ("AutoModelForSequenceClassification", "AutoModelForTokenClassification"):
        return []
    backbone = cast(nn.Module, stock.base_model)
    found = [name for name, child in stock.named_children() if child is not backbone and any(True for _ in child.parameters())]
    if isinstance(getattr(backbone, "pooler", None), nn.Module):
        found.append(f"{stock.base_model_prefix}.pooler")
    return found


def apply_method(model: FusedModel, method: MethodConfig, outputs: Sequence[str], new_rows: Sequence[int] = ()) -> FusedModel:
    """The model with exactly the method's parameters left to train; `model` itself must not be used any more.

    outputs: modules that are trained whole under every method (see output_modules); new_rows: the ids of added tokens (see
    new_row_ids), trained where method.train_new_rows says so. A fusion operator is always trained whole. Adapters are drawn from
    torch's global generator. Outputs are those of `model` at the start, except with prompts and qat.
    Raises ConfigError if the method cannot work with this model.
    """
    stock = model.stock
    assert inner(stock) is stock, "an adapter on an adapter"
    if method.name == "output_layer" and not outputs:
        raise ConfigError(
            f"output_layer: nothing stands on top of a {type(stock).__name__}: its head is that of the base; use lora, or another method"
        )
    _check_prompts(stock, method)
    _check_new_rows(stock, method, new_rows)
    adapted = _adapt(stock, method, list(outputs), list(new_rows))
    fused = FusedModel(adapted, model.spec, model.operator)
    if fused.operator is not None:
        fused.operator.requires_grad_(True)  # small, and trained whole beside whatever the method trains
    return fused.train(model.training)


def save_finetuned(model: FusedModel, folder: Path, source: Path, method: MethodConfig) -> None:
    """Write what a method made of the model in `source`: an adapter folder, or a stock model folder; tokenizer and fusion beside."""
    if inner(model.stock) is not model.stock:
        save_adapter(model.stock, folder, source, method.name, _four_bit(method))
        copy_tokenizer(source, folder)
        save_fusion(folder, model, of_adapter=True)
        return
    save_model(model, folder, source)
    if method.name == "qat":
        write_json(folder / QUANTISATION, _quantisation(method, output_modules(model.stock)).model_dump())


def new_rows_for(method: MethodConfig, source: Path) -> list[int]:
    """The rows that a method trains of the vocabulary of a model folder: those of the added tokens, or none."""
    return new_row_ids(source) if method.train_new_rows else []


def _adapt(stock: nn.Module, method: MethodConfig, outputs: list[str], new_rows: list[int]) -> nn.Module:
    match method.name:
        case "full":
            stock.requires_grad_(True)
        case "output_layer":
            _train_only(stock, outputs)
        case "bitfit":
            _train_only(stock, outputs)
            biases = [p for name, p in stock.named_parameters() if name.endswith("bias") and not _within(name, outputs)]
            if not biases:
                raise ConfigError(
                    f"bitfit: a {type(stock).__name__} has no biases below its head (Llama's layers have none); use lora or ia3"
                )
            for bias in biases:
                bias.requires_grad_(True)
        case "qat":
            stock.requires_grad_(True)
            fake_quantise(stock, _quantisation(method, outputs))
        case "adapter_series" | "adapter_parallel":
            _train_only(stock, outputs)
            return BottleneckModel(stock, _bottleneck(stock, method, outputs))
        case _:
            return attach_peft(stock, _peft_config(stock, method, outputs, new_rows))
    return stock


def _train_only(stock: nn.Module, names: list[str]) -> None:
    stock.requires_grad_(False)
    for name in names:
        stock.get_submodule(name).requires_grad_(True)


def _within(name: str, modules: list[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _bottleneck(stock: nn.Module, method: MethodConfig, outputs: list[str]) -> BottleneckSpec:
    series = method.name == "adapter_series"
    return BottleneckSpec(
        kind="series" if series else "parallel",
        placement=method.adapter_placement if series else "ffn",
        width=method.adapter_width,
        scale=1.0 if series else method.adapter_scale,
        dropout=method.adapter_dropout,
        hidden_size=cast(Any, stock.config).hidden_size,
        outputs=outputs,
    )


def _quantisation(method: MethodConfig, outputs: list[str]) -> QuantisationSpec:
    return QuantisationSpec(scheme=method.qat_scheme, group_size=method.qat_group_size, skipped=outputs)


def _four_bit(method: MethodConfig) -> FourBit | None:
    if method.name != "qlora":
        return None
    bf16 = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= _SMALLEST_BF16_CAPABILITY
    return FourBit(compute_dtype="bfloat16" if bf16 else "float32", skipped=_HEADS)


def _check_prompts(stock: nn.Module, method: MethodConfig) -> None:
    """Encoder-decoders that classify take their tokens as ids alone, so that nothing can be put before them."""
    if prompt_tokens(method) and cast(Any, stock).config.is_encoder_decoder and kind_of(stock) == "AutoModelForSequenceClassification":
        raise ConfigError(
            f"{method.name}: a {type(stock).__name__} is an encoder-decoder, which transformers lets read token ids only, and no prompt "
            "before them; use lora, dora, ia3, output_layer or full"
        )


def _check_new_rows(stock: nn.Module, method: MethodConfig, new_rows: Sequence[int]) -> None:
    if not method.train_new_rows:
        return
    if not new_rows:
        raise ConfigError("train_new_rows is true, but the vocabulary of the model has no added tokens; expected a merged model, or false")
    rows = len(cast(Any, stock).get_input_embeddings().weight)
    if max(new_rows) >= rows:
        raise ConfigError(
            f"train_new_rows: the tokenizer adds tokens up to id {max(new_rows)}, but the model has {rows} rows; they must agree"
        )
    head = _output_table(stock)
    if head is not None and getattr(head[1], "bias", None) is not None:
        raise ConfigError(
            f"train_new_rows: the output table of a {type(stock).__name__} has a bias, which peft would leave out; expected false"
        )


def _output_table(stock: nn.Module) -> tuple[str, nn.Module] | None:
    """The output table by name, tied or not; None for models without."""
    head = cast(Any, stock).get_output_embeddings()
    return next(((name, module) for name, module in stock.named_modules() if module is head), None) if head is not None else None


def _trained_rows(stock: nn.Module, new_rows: list[int]) -> dict[str, list[int]]:
    """peft's trainable_token_indices: rows by table. A tied output table follows the input table by itself."""
    inputs = cast(Any, stock).get_input_embeddings()
    tables = {next(name for name, module in stock.named_modules() if module is inputs): new_rows}
    head = _output_table(stock)
    if head is not None and head[1].weight is not inputs.weight:
        tables[head[0]] = new_rows
    return tables


def _peft_config(stock: nn.Module, method: MethodConfig, outputs: list[str], new_rows: list[int]) -> Any:
    # What stands on top is new, so it is trained and saved whole: an adapter on random weights that nobody saved is worth nothing.
    peft = load_peft()
    whole = {"modules_to_save": list(outputs)}
    excluded = rf"(.*\.)?({'|'.join(re.escape(name) for name in outputs)})(\..*)?" if outputs else None
    match method.name:
        case "lora" | "dora" | "qlora":
            return peft.LoraConfig(
                r=method.lora_rank,
                lora_alpha=method.alpha,
                lora_dropout=method.lora_dropout,
                use_rslora=method.rank_stabilised,
                use_dora=method.name == "dora",
                target_modules="all-linear" if method.target_modules == "auto" else _present(stock, method.target_modules),
                exclude_modules=excluded,
                trainable_token_indices=_trained_rows(stock, new_rows) if new_rows else None,
                **whole,
            )
        case "ia3":
            if method.target_modules == "auto":
                _check_ia3_known(stock)
                return peft.IA3Config(exclude_modules=excluded, **whole)
            return peft.IA3Config(
                target_modules=_present(stock, method.target_modules),
                feedforward_modules=method.feedforward_modules,
                exclude_modules=excluded,
                **whole,
            )
        case "prefix_tuning":
            return peft.PrefixTuningConfig(
                num_virtual_tokens=method.virtual_tokens,
                prefix_projection=method.prefix_projection,
                encoder_hidden_size=method.prompt_encoder_width,
                **whole,
            )
        case "prompt_tuning":  # begins at rows of real tokens: best by far for models below 10 billion parameters (Lester 2021)
            return peft.PromptTuningConfig(num_virtual_tokens=method.virtual_tokens, prompt_tuning_init="SAMPLE_VOCAB", **whole)
        case "p_tuning":
            return peft.PromptEncoderConfig(
                num_virtual_tokens=method.virtual_tokens, encoder_hidden_size=method.prompt_encoder_width, **whole
            )
    raise AssertionError(method.name)


def _present(stock: nn.Module, targets: list[str]) -> list[str]:
    names = [name for name, _ in stock.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            ends = sorted(
                {name.rsplit(".", 1)[-1] for name, module in stock.named_modules() if getattr(module, "weight", None) is not None}
            )
            raise ConfigError(
                f"target_modules has {target!r}, but no layer of this {type(stock).__name__} is so called; expected of {', '.join(ends)}"
            )
    return targets


def _check_ia3_known(stock: nn.Module) -> None:
    known = load_peft().utils.constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    architecture = cast(Any, stock.config).model_type
    if architecture not in known:
        raise ConfigError(
            f"ia3: target_modules is 'auto', but peft knows no choice for '{architecture}' models; "
            "expected the names of key, value and feed-forward layers, and feedforward_modules"
        )
