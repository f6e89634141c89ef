"""An adapter folded into its base: a stock model folder that needs neither peft nor biollm."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from biollm.core.adapters import FOLDABLE
from biollm.core.errors import ArtifactError, ConfigError, storage_error
from biollm.core.files import files_below, sync
from biollm.core.resources import model_folder
from biollm.core.seeding import generator
from biollm.modeling.adapters import is_adapter, load_peft, read_base
from biollm.modeling.fusion import FusedModel
from biollm.modeling.loading import load_model, save_model

# Folding adds the same numbers in another order; tiny models differ by about 1e-6 of the largest logit.
MERGE_TOLERANCE = 1e-4
_WHY_NOT = {
    "qlora": "it was trained on a base rounded to 4 bits, and on the base in full precision it gives other outputs",
    "adapter_series": "it is a network with a non-linearity of its own, which no weight of the base can take in",
    "adapter_parallel": "it is a network with a non-linearity of its own, which no weight of the base can take in",
    "prefix_tuning": "it adds keys and values to every input, which no weight of the base can take in",
    "prompt_tuning": "it adds virtual tokens to every input, which no weight of the base can take in",
    "p_tuning": "it adds virtual tokens to every input, which no weight of the base can take in",
}
_PROBE = (4, 16)  # records, tokens


def merge_adapter(folder: str | Path, out: Path, base: str | Path | None = None) -> float:
    """Fold the adapter of a folder into its base, and write that as a stock Hugging Face folder in float32.

    base: where the adapter's base is, if it is not where the adapter says. The folder `out` appears only when it is whole and its
    logits have been found equal to the adapted model's.
    Returns the largest difference of a logit, as a share of the largest logit. Raises ConfigError if `out` exists, the adapter cannot
    be folded in, or its base is another; ArtifactError if the merged model gives other logits than MERGE_TOLERANCE allows.
    """
    source = model_folder(folder)
    if not is_adapter(source):
        raise ConfigError(f"{folder}: no adapter here (adapter_config.json is missing); a whole model needs no merging")
    method = read_base(source).method
    if method not in FOLDABLE:
        raise ConfigError(
            f"{folder}: a {method} adapter cannot be folded into its base: {_WHY_NOT.get(method, 'this version does not know it')}; "
            f"expected one of {', '.join(FOLDABLE)}"
        )
    if out.exists():
        raise ConfigError(f"{out}: exists; give a folder that does not, nothing is overwritten")
    adapted = load_model(source, base=base)
    inputs = _probe(adapted)
    before = _logits(adapted, inputs)
    merged = FusedModel(_fold(adapted.stock), adapted.spec, adapted.operator)
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_model(merged, partial, source)
        difference = _difference(before, _logits(load_model(partial, read_base(source).kind), inputs))
        if not difference <= MERGE_TOLERANCE:
            raise ArtifactError(
                f"{out}: not written: the merged model's logits differ by {difference:.1e} of the largest from the adapted model's; "
                f"expected at most {MERGE_TOLERANCE:.0e}"
            )
        for file in files_below(partial):
            sync(file)
        partial.rename(out)
        sync(out.parent)
    except Exception as error:
        if refused := storage_error(error, out):
            raise refused from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return difference


def _fold(adapted: nn.Module) -> nn.Module:
    """The stock model with the adapter in its weights; `adapted` is used up."""
    wrapper = load_peft().utils.ModulesToSaveWrapper
    for name, module in list(adapted.named_modules()):
        if isinstance(module, wrapper):  # by hand: peft 0.21 cannot take a head of several layers out of an IA3 model
            parent, _, last = name.rpartition(".")
            setattr(adapted.get_submodule(parent), last, cast(Any, module).modules_to_save["default"])
    folded: nn.Module = cast(Any, adapted).merge_and_unload()
    return folded


def _probe(model: FusedModel) -> dict[str, Tensor]:
    """A few records of random tokens from the whole vocabulary, the last ones padded; with track features if the model is fused."""
    rng = generator(0, "merge-adapter")
    rows, device = len(cast(Any, model.stock).get_input_embeddings().weight), next(model.parameters()).device
    ids = torch.from_numpy(rng.integers(0, rows, size=_PROBE))
    ids[:, -1] = rows - 1  # the newest token
    mask = torch.ones_like(ids)
    inputs = {"input_ids": ids, "attention_mask": mask}
    padding = cast(Any, model.stock.config).pad_token_id
    if padding is not None:
        ids[ids == padding] = (padding + 1) % rows
        ids[-1, _PROBE[1] // 2 :] = padding
        mask[-1, _PROBE[1] // 2 :] = 0
    if model.spec is not None:
        size = (*_PROBE, model.spec.width)
        inputs["features"] = torch.from_numpy(rng.standard_normal(size)).float()
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def _logits(model: FusedModel, inputs: dict[str, Tensor]) -> Tensor:
    model.eval()
    with torch.no_grad():
        logits: Tensor = model(**inputs).logits.float().cpu()
    return logits


def _difference(before: Tensor, after: Tensor) -> float:
    return float((before - after).abs().max() / before.abs().max().clamp(min=1e-30))
