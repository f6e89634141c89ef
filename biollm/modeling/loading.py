"""Model folders in and out: stock Hugging Face folders with our sidecars beside."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from biollm.core.errors import ConfigError
from biollm.core.files import read_json
from biollm.core.progress import quiet_libraries
from biollm.core.resources import model_folder
from biollm.modeling.fusion import FusedModel, attach_fusion, save_fusion
from biollm.modeling.vocabulary import TOKENIZER_FILES

ADAPTER = "adapter_config.json"


def load_model(folder: str | Path, kind: str = "AutoModel", **options: Any) -> FusedModel:
    """Load a model folder with its fusion, in float32, ready for inference, on a GPU if there is one.

    folder: a folder, package:NAME/path, or a hub name; kind: the transformers Auto class; options go to its from_pretrained.
    A folder of a fine-tuning adapter gives the adapted classification model.
    Only safetensors weights are read, and code of the repository is never run.
    Raises ResourceError if there is no such model, ConfigError if the folder is not a loadable one.
    """
    import torch

    path = model_folder(folder)
    stock = _load_adapted(path, **options) if (path / ADAPTER).is_file() else load_stock(path, kind, **options)
    return attach_fusion(stock, path).to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _load_adapted(folder: Path, **options: Any) -> nn.Module:
    """A classification adapter on its base, which its settings name by a path relative to the adapter folder."""
    from peft import PeftModel

    base = (folder / read_json(folder / ADAPTER)["base_model_name_or_path"]).resolve()
    if not base.is_dir():
        raise ConfigError(
            f"{folder / ADAPTER}: its base model {base.name} is not at {base}; keep the adapter beside the results it came from"
        )
    adapted: nn.Module = PeftModel.from_pretrained(load_stock(base, "AutoModelForSequenceClassification", **options), str(folder))
    return adapted


def load_stock(folder: Path, kind: str, **options: Any) -> nn.Module:
    """The transformers model of a folder, in float32, without our sidecars."""
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
        loaded: nn.Module = getattr(transformers, kind).from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True, **options
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigError(f"{folder}: transformers cannot load it as {kind}: {(str(error).splitlines() or ['?'])[0]}") from error
    return loaded


def save_model(model: FusedModel, out: Path, tokenizer_folder: Path) -> None:
    """Write a stock Hugging Face folder: weights, config and tokenizer; and the fusion's sidecar if there is one."""
    model.stock.save_pretrained(str(out))  # type: ignore[operator]
    copy_tokenizer(tokenizer_folder, out)
    save_fusion(out, model)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Put the tokenizer files of one folder into another."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def token_capacity(folder: Path, stock: nn.Module) -> int:
    """How many tokens, special ones included, the model of a folder reads at once."""
    config: Any = stock.config
    positions = getattr(config, "max_position_embeddings", None) or 10**9
    if config.model_type in {"roberta", "xlm-roberta", "camembert", "esm"}:
        positions -= (config.pad_token_id or 0) + 1  # their position numbers begin behind the padding id
    settings = folder / "tokenizer_config.json"
    declared = read_json(settings).get("model_max_length") if settings.is_file() else None
    return int(min(positions, declared or positions))
