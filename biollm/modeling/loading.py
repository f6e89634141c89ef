"""Model folders in and out: stock Hugging Face folders with our sidecars beside."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from biollm.core.errors import ConfigError, first_line
from biollm.core.files import read_json
from biollm.core.progress import quiet_libraries
from biollm.core.resources import model_folder
from biollm.modeling.adapters import attach_adapter, find_base, is_adapter, read_base
from biollm.modeling.documents import position_offset
from biollm.modeling.fusion import FusedModel, attach_fusion, save_fusion
from biollm.modeling.quantisation import apply_stored_quantisation, steady_four_bit
from biollm.modeling.shards import FORMATS, loader_names, read_header
from biollm.modeling.vocabulary import TOKENIZER_FILES


def load_model(folder: str | Path, kind: str = "AutoModel", *, base: str | Path | None = None, **options: Any) -> FusedModel:
    """Load a model folder with its fusion, in float32 unless `dtype` says otherwise, ready for inference, on a GPU if there is one.

    folder: a folder, package:NAME/path, or a hub name; kind: the transformers Auto class; options go to its from_pretrained.
    A folder of a fine-tuning adapter gives the adapted model of the kind that it was trained as, on its base, which it names by a path
    relative to itself; base: where that is if it was moved. A folder trained for quantisation computes as it will with integers.
    Only safetensors weights are read, and code of the repository is never run.
    Raises ResourceError if there is no such model, ConfigError if the folder is not a loadable one or `base` is not the adapter's.
    """
    import torch

    path = model_folder(folder)
    if is_adapter(path):
        stock = _load_adapted(path, kind, model_folder(base) if base is not None else None, options)
    elif base is not None:
        raise ConfigError(f"{folder}: a whole model, which needs no base; leave base out, or give the folder of an adapter")
    else:
        stock = load_stock(path, kind, **options)
        apply_stored_quantisation(stock, path)
        steady_four_bit(stock)
    return attach_fusion(stock, path).to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _load_adapted(folder: Path, kind: str, base: Path | None, options: dict[str, Any]) -> nn.Module:
    sidecar = read_base(folder)
    if kind not in ("AutoModel", sidecar.kind):
        raise ConfigError(f"{folder}: an adapter of an {sidecar.kind}, but {kind} was asked for; leave the kind out")
    source = find_base(folder, sidecar, base)
    stock = load_stock(source, sidecar.kind, **sidecar.load_options() | options)
    apply_stored_quantisation(stock, source)
    steady_four_bit(stock)
    return attach_adapter(stock, folder)


def load_stock(folder: Path, kind: str, **options: Any) -> nn.Module:
    """The transformers model of a folder, in float32, without our sidecars. Heads and poolers that the folder has not are new.

    Raises ConfigError if the folder is no loadable one, or lacks weights that it must have: transformers would draw them at random.
    """
    import torch
    import transformers

    quiet_libraries()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers looks for DeepSpeed, which warns unless told
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{folder}: holds no .safetensors weights (pickled .bin files are never read); save the model with save_pretrained"
        )
    try:
        loaded: nn.Module
        loaded, report = getattr(transformers, kind).from_pretrained(
            str(folder),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **{"dtype": torch.float32} | options,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigError(f"{folder}: transformers cannot load it as {kind}: {first_line(error)}") from error
    _check_whole(folder, loaded, sorted(report["missing_keys"]))
    return loaded


def _check_whole(folder: Path, model: Any, missing: list[str]) -> None:
    """Raise ConfigError if a missing tensor is one of the class that config.json names (without one: of the model below the head)."""
    import torch
    import transformers

    if not missing:
        return
    name = next(iter(model.config.architectures or []), "")
    saved_class = getattr(transformers, name, None) or type(model.base_model)
    with torch.device("meta"):
        saved = model if saved_class is type(model) else saved_class(model.config)
    prefix = f"{model.base_model_prefix}."
    required = {key.removeprefix(prefix) for key in saved.state_dict()}
    lacking = [key for key in missing if key.removeprefix(prefix) in required and "pooler" not in key.split(".")]
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
        where = f"{index.name} names no file for them" if index is not None else "no .safetensors file holds them"
        raise ConfigError(
            f"{folder}: its weights lack {', '.join(lacking[:3])}{more} of a {saved_class.__name__}: {where}, "
            "and transformers would draw them at random; fetch or save the model again"
        )


def save_model(model: FusedModel, out: Path, tokenizer_folder: Path, beside: dict[str, Tensor] | None = None) -> None:
    """Write a stock Hugging Face folder: weights, config and tokenizer; and the fusion's sidecar if there is one.

    beside: tensors that are stored with the model's own, under these names.
    """
    weights = {"state_dict": model.stock.state_dict() | beside} if beside else {}
    model.stock.save_pretrained(str(out), **weights)  # type: ignore[operator]
    copy_tokenizer(tokenizer_folder, out)
    save_fusion(out, model)


def tensors_beside(folder: Path, stock: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a folder that a model of it has not, such as a pooler or the head for another task, in their number formats.

    Returned apart, by name alone: those with one row or number per token of the folder's vocabulary, which fit no grown model.
    """
    rename, own = loader_names(stock), stock.state_dict()
    rows = load_config(folder).get_text_config().vocab_size
    beside: dict[str, Tensor] = {}
    stale = []
    for file in sorted(folder.glob("*.safetensors")):
        others = [tensor for tensor in read_header(file).tensors if rename(tensor.key) not in own]
        with safe_open(str(file), "pt") as opened:
            for tensor in others:
                if tensor.shape[:1] == (rows,) or tensor.shape == (1, rows):
                    stale.append(tensor.key)
                else:
                    beside[tensor.key] = opened.get_tensor(tensor.key)
    return beside, stale


def store_as_in(stock: nn.Module, folder: Path) -> None:
    """Bring the parameters into the number formats of a folder's weights (those that it lacks: into that of the embeddings).

    Raises ConfigError naming a parameter whose values are not finite in that format.
    """
    import torch

    stored = {tensor.key: tensor.dtype for file in sorted(folder.glob("*.safetensors")) for tensor in read_header(file).tensors}
    rename = loader_names(stock)
    formats = {rename(key): FORMATS[dtype] for key, dtype in stored.items() if dtype in ("F32", "F16", "BF16")}
    table = stock.get_input_embeddings().weight  # type: ignore[operator]
    names = {id(parameter): name for name, parameter in stock.named_parameters(remove_duplicate=False) if name in formats}
    usual = formats.get(names.get(id(table), ""), torch.float32)
    for name, parameter in stock.named_parameters():
        wanted = formats.get(names.get(id(parameter), ""), usual)
        finite = bool(torch.isfinite(parameter.data).all())
        parameter.data = parameter.data.to(wanted)
        if finite and not torch.isfinite(parameter.data).all():
            raise ConfigError(f"{name}: new values are not finite in {str(wanted).removeprefix('torch.')}; choose another initialiser")
    for name, buffer in stock.named_buffers():
        if name in formats:
            buffer.data = buffer.data.to(formats[name])


def copy_tokenizer(source: Path, out: Path) -> None:
    """Put the tokenizer files of one folder into another."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def load_config(folder: Path) -> Any:
    """The transformers config of a model folder. Raises ConfigError if it is none that transformers knows."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder.name}: transformers cannot read its config.json: {first_line(error)}") from error


def token_capacity(folder: Path, config: Any) -> int:
    """How many tokens, special ones included, the model of a folder reads at once. config: the model's."""
    positions = (getattr(config, "max_position_embeddings", None) or 10**9) - position_offset(config)
    settings = folder / "tokenizer_config.json"
    declared = read_json(settings).get("model_max_length") if settings.is_file() else None
    return int(min(positions, declared or positions))
