"""Adapters on a model, peft's and bottleneck adapters, and how they are stored.

An adapter folder is a stock peft folder, or `bottleneck.json` and `bottleneck.safetensors`; always with `adapter_base.json`, which
says what base it belongs to.
"""

from __future__ import annotations

import inspect
import os
import warnings
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from biollm.core.artifacts import MANIFEST
from biollm.core.errors import ConfigError, first_line
from biollm.core.files import read_json, read_sidecar, sha256_file, sha256_json, write_json
from biollm.core.progress import quiet_libraries
from biollm.modeling.bottleneck import BOTTLENECK, BOTTLENECK_WEIGHTS, BottleneckModel, BottleneckSpec, check_names
from biollm.modeling.quantisation import FourBit
from biollm.modeling.vocabulary import DomainVocabulary

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "adapter_base.json"
_FUSION_WEIGHTS = "fusion.safetensors"
# A base that is further away than this is named, not pointed at: such a path would hold for one machine only.
_MOST_STEPS_UP = 3
Kind = Literal["AutoModelForSequenceClassification", "AutoModelForTokenClassification", "AutoModelForCausalLM", "AutoModelForMaskedLM"]
# The transformers Auto class of a model by what its own class is called, and what peft calls the task.
_KINDS: dict[str, tuple[Kind, str]] = {
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "SEQ_CLS"),
    "ForTokenClassification": ("AutoModelForTokenClassification", "TOKEN_CLS"),
    "ForCausalLM": ("AutoModelForCausalLM", "CAUSAL_LM"),
    "LMHeadModel": ("AutoModelForCausalLM", "CAUSAL_LM"),
    "ForMaskedLM": ("AutoModelForMaskedLM", "FEATURE_EXTRACTION"),
}
_CLASSIFIERS = ("AutoModelForSequenceClassification", "AutoModelForTokenClassification")


class AdapterBase(BaseModel):
    """`adapter_base.json`: which base an adapter was trained on, and for what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    method: str
    kind: Kind  # the transformers Auto class
    base: str  # relative to the adapter's folder, or only the base's name if it is far away
    base_weights: str  # see weights_digest
    base_artifact: str | None  # the digest in the base's manifest.json, if it has one
    vocab_size: int  # rows of the base's input table
    labels: list[str]  # empty for language models
    problem_type: str | None
    pad_token_id: int | None = None  # a classifying decoder looks for the last token that is not this one
    four_bit: FourBit | None = None

    def load_options(self) -> dict[str, Any]:
        """What from_pretrained must be told to make the model that the adapter was trained on."""
        options: dict[str, Any] = {}
        if self.kind in _CLASSIFIERS:
            options = {"num_labels": len(self.labels), "id2label": dict(enumerate(self.labels)), "problem_type": self.problem_type}
            options["label2id"] = {name: number for number, name in enumerate(self.labels)}
            options |= {} if self.pad_token_id is None else {"pad_token_id": self.pad_token_id}
        return options | (self.four_bit.load_options() if self.four_bit else {})


# --- what a model is ------------------------------------------------------------------------------------------------------------


def kind_of(stock: nn.Module) -> Kind:
    """The transformers Auto class of a model. Raises ConfigError if it is none that can be fine-tuned."""
    return _kind(stock)[0]


def _kind(stock: nn.Module) -> tuple[Kind, str]:
    name = type(inner(stock)).__name__
    for ending, kind in _KINDS.items():
        if name.endswith(ending):
            return kind
    raise ConfigError(
        f"a {name} cannot be fine-tuned; expected a model for sequence classification, token classification, causal or masked language"
    )


def inner(stock: nn.Module) -> nn.Module:
    """The transformers model under whatever adapters there are."""
    if isinstance(stock, BottleneckModel):
        return stock.base
    if hasattr(stock, "get_base_model"):
        return cast(nn.Module, stock.get_base_model())  # type: ignore[operator]
    return stock


def weights_digest(folder: Path) -> str:
    """One sha256 over the names and digests of a model folder's weight files; where the folder lies does not matter."""
    return sha256_json({file.name: sha256_file(file) for file in sorted(folder.glob("*.safetensors")) if file.name != _FUSION_WEIGHTS})


def new_row_ids(folder: Path) -> list[int]:
    """The ids that a vocabulary merge added to the base of a model folder; none if its tokenizer is an ordinary one."""
    vocabulary = DomainVocabulary.load(folder)
    if vocabulary is None:
        return []
    return list(range(vocabulary.base_vocab_size, max((domain.ids.stop for domain in vocabulary.domains), default=0)))


def virtual_tokens(stock: nn.Module) -> int:
    """How many positions of the context a model's prompt takes, which token_capacity does not know of; 0 for models without one."""
    config = getattr(stock, "active_peft_config", None)
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0


# --- peft -----------------------------------------------------------------------------------------------------------------------


def load_peft() -> Any:
    """peft, without what it and the optional libraries that it looks for print when they are loaded."""
    quiet_libraries()
    import peft

    return peft


def attach_peft(stock: nn.Module, config: Any) -> nn.Module:
    """A model with fresh peft adapters. config: peft's, its task_type left open.

    Raises ConfigError if peft cannot put them into this model.
    """
    peft = load_peft()
    config.task_type = _kind(stock)[1]
    prefix = config.peft_type == "PREFIX_TUNING"
    backbone = cast(nn.Module, stock.base_model) if _kind(stock)[0] in _CLASSIFIERS else stock
    if prefix and "past_key_values" not in inspect.signature(backbone.forward).parameters:
        raise ConfigError(f"prefix_tuning: {type(stock).__name__} takes no keys and values from outside; use prompt_tuning or lora")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = cast(nn.Module, peft.get_peft_model(cast(Any, stock), config))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConfigError(f"peft cannot adapt a {type(stock).__name__}: {first_line(error)}") from error
    return _mend_prompts(adapted)


def _mend_prompts(adapted: nn.Module) -> nn.Module:
    """Make what peft does with prompts agree with what every other model does.

    - peft returns logits of the virtual tokens too: they are cut off, so that logits always stand for the tokens given.
    - A decoder classifies by its last real token, which transformers cannot find behind a prompt: it takes the last position, so
      that a padded record had another score than alone (0.1 to 0.2 of a logit on tiny models). The last real state is put there.
    """
    if not virtual_tokens(adapted):
        return adapted
    stock = inner(adapted)
    if adapted.word_embeddings is not stock.get_input_embeddings():  # type: ignore[operator]
        raise ConfigError(
            f"peft takes another table of {type(stock).__name__} for its token embeddings; use a method without prompts, such as lora"
        )
    adapted.register_forward_hook(_cut_prompt, with_kwargs=True)
    if _kind(stock)[1] == "SEQ_CLS" and hasattr(stock, "score"):
        cast(nn.Module, stock.base_model).register_forward_hook(_last_real_to_end, with_kwargs=True)
    return adapted


def _cut_prompt(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    logits_BTV, ids_BT = getattr(output, "logits", None), kwargs.get("input_ids")
    if logits_BTV is not None and ids_BT is not None and logits_BTV.ndim == 3 and logits_BTV.shape[1] > ids_BT.shape[1]:
        output.logits = logits_BTV[:, -ids_BT.shape[1] :]
    return output


def _last_real_to_end(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    mask_BT = kwargs.get("attention_mask")
    if kwargs.get("input_ids") is not None or kwargs.get("inputs_embeds") is None or mask_BT is None:
        return output
    hidden_BTD = output.last_hidden_state
    positions = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    last_B = (positions * (mask_BT > 0)).argmax(dim=1)
    rows_B = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
    output.last_hidden_state = torch.cat([hidden_BTD[:, :-1], hidden_BTD[rows_B, last_B][:, None]], dim=1)
    return output


# --- folders --------------------------------------------------------------------------------------------------------------------


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, not a whole model."""
    return (folder / PEFT_CONFIG).is_file() or (folder / BOTTLENECK).is_file()


def save_adapter(stock: nn.Module, folder: Path, base: Path, method: str, four_bit: FourBit | None = None) -> None:
    """Write the adapter of a model, and what base it belongs to: never a pickle, never an absolute path.

    base: the folder of the model that was adapted, as it is on disk.
    """
    model = inner(stock)
    config = cast(Any, model.config)
    kind = kind_of(model)
    labels = [str(config.id2label[number]) for number in range(config.num_labels)] if kind in _CLASSIFIERS else []
    steps = os.path.relpath(base, folder)
    sidecar = AdapterBase(
        method=method,
        kind=kind,
        base=steps if Path(steps).parts.count("..") <= _MOST_STEPS_UP else base.resolve().name,
        base_weights=weights_digest(base),
        base_artifact=read_json(base / MANIFEST).get("digest") if (base / MANIFEST).is_file() else None,
        vocab_size=_rows(model),
        labels=labels,
        problem_type=config.problem_type if kind in _CLASSIFIERS else None,
        pad_token_id=config.pad_token_id if kind in _CLASSIFIERS else None,
        four_bit=four_bit,
    )
    if isinstance(stock, BottleneckModel):
        stock.save_pretrained(str(folder))
    else:
        settings = cast(Any, stock).peft_config["default"]
        settings.base_model_name_or_path = sidecar.base
        cast(Any, stock).save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's model card is an empty form
        written = read_json(folder / PEFT_CONFIG)
        write_json(folder / PEFT_CONFIG, {key: _sorted_set(key, value) for key, value in written.items()})
    write_json(folder / BASE, sidecar.model_dump())


def _sorted_set(key: str, value: Any) -> Any:
    """peft keeps these as sets, which it writes in another order each time."""
    in_sets = ("target_modules", "modules_to_save", "feedforward_modules", "exclude_modules")
    return sorted(set(value)) if key in in_sets and isinstance(value, list) else value


def read_base(folder: Path) -> AdapterBase:
    """What base an adapter folder belongs to. Raises ConfigError if it does not say."""
    if not (folder / BASE).is_file():
        raise ConfigError(
            f"{folder}: an adapter without {BASE}, so nothing says which base it fits; open it with peft, or fine-tune again with biollm"
        )
    return read_sidecar(folder / BASE, AdapterBase)


def find_base(folder: Path, sidecar: AdapterBase, given: Path | None) -> Path:
    """The folder of an adapter's base, checked to be the one that it was trained on.

    Raises ConfigError saying what was expected and what was found if it is not there, or is another.
    """
    base = given if given is not None else folder / sidecar.base
    if not base.is_dir():
        raise ConfigError(
            f"{folder / BASE}: the adapter's base '{sidecar.base}' is not there; keep the adapter beside the results that it came from, "
            "or say where the base is: load_model(folder, base=…), or --base"
        )
    rows = _stored_rows(base)
    if rows is not None and rows != sidecar.vocab_size:
        raise ConfigError(
            f"{folder / BASE}: the adapter expects a base with {sidecar.vocab_size} vocabulary rows, but {base} has {rows}; "
            "give the base that it was trained on"
        )
    digest = weights_digest(base)
    if digest != sidecar.base_weights:
        raise ConfigError(
            f"{folder / BASE}: the adapter expects a base whose weights have the digest {sidecar.base_weights[:12]}, "
            f"but those of {base} have {digest[:12]}; give the base that it was trained on, or fine-tune again"
        )
    return base


def attach_adapter(stock: nn.Module, folder: Path) -> nn.Module:
    """The adapter of a folder on its base. Raises ConfigError if its files are damaged or do not fit the model."""
    weights = folder / (BOTTLENECK_WEIGHTS if (folder / BOTTLENECK).is_file() else PEFT_WEIGHTS)
    if not weights.is_file():
        raise ConfigError(f"{folder}: the adapter's weights ({weights.name}) are missing; fine-tune again")
    try:
        if weights.name == BOTTLENECK_WEIGHTS:
            adapted = BottleneckModel(stock, read_sidecar(folder / BOTTLENECK, BottleneckSpec))
            adapted.load(weights)
            return adapted
        return _attach_stored_peft(stock, folder)
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{weights}: damaged, or not of the settings beside it: {first_line(error)}") from error


def _attach_stored_peft(stock: nn.Module, folder: Path) -> nn.Module:
    peft = load_peft()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing keys, which are checked here
        adapted = peft.PeftModel.from_pretrained(cast(Any, stock), str(folder))
    stored = set(load_file(str(folder / PEFT_WEIGHTS)))
    check_names(folder / PEFT_WEIGHTS, set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)), stored)
    return _mend_prompts(adapted)


def _rows(model: nn.Module) -> int:
    return len(cast(Any, model).get_input_embeddings().weight)


def _stored_rows(base: Path) -> int | None:
    """What config.json of a folder says of its vocabulary; None if it does not say."""
    config = read_json(base / "config.json") if (base / "config.json").is_file() else {}
    size = config.get("vocab_size")
    return int(size) if isinstance(size, int) else None
