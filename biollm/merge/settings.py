"""What transformers knows of a base's tokenizer beside tokenizer.json: special tokens, input names, sides. A merge must keep it.

Much of it stands in no file: BertTokenizer supplies [PAD] and token_type_ids, GPT2Tokenizer <|endoftext|>. The merged tokenizer is
opened as PreTrainedTokenizerFast, since a class such as BertTokenizer would build its own normaliser from the vocabulary, and drop
ours in silence; that class supplies nothing, so all of it is written down.

For some model types (Qwen2, Qwen3.5, SigLIP 2, …: MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS in transformers 5) AutoTokenizer takes a
class of its own, whatever class the settings name, but not where the settings say in `auto_map` that the tokenizer has code of its own.
It runs none without trust_remote_code, and goes back to the class that the settings name. So there, and only there, an `auto_map` is
written. Its code does not exist: with trust_remote_code=True transformers says that open_without_trust_remote_code.py is missing.
(Instead of the name, null serves too, but then the folder of the merge does not open, which has no config.json.)
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from biollm.core.errors import ConfigError, DataError, first_line
from biollm.core.files import read_json, write_json
from biollm.core.progress import quiet_libraries
from biollm.modeling.vocabulary import TOKENIZER_FILES
from tokenizers import Tokenizer

SETTINGS = "tokenizer_config.json"
_CLASS = "PreTrainedTokenizerFast"
_NO_CODE = {"AutoTokenizer": [None, f"open_without_trust_remote_code.{_CLASS}"]}
_CONFIG = "config.json"
_REFUSALS = (OSError, ValueError, KeyError, TypeError, ImportError)  # of transformers, for a tokenizer that it cannot open
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SIDES = ("model_input_names", "padding_side", "truncation_side", "clean_up_tokenization_spaces")
_NO_LIMIT = 10**20
_PAIR = ("a question", "an answer")


def open_stock(folder: Path) -> Any:
    """A folder's tokenizer as transformers opens it; one whose class needs code of the repository, as the general class.

    Raises ConfigError if transformers cannot open it.
    """
    for name in ("AutoTokenizer", _CLASS):
        try:
            return _open_as(name, folder)
        except _REFUSALS as error:
            why = first_line(error)
    raise ConfigError(f"{folder}: transformers cannot open its tokenizer: {why}; save it again with AutoTokenizer.save_pretrained")


def _open_as(name: str, folder: Path) -> Any:
    import transformers

    quiet_libraries()
    transformers.utils.logging.set_verbosity_error()  # it would warn that a text is longer than the model reads
    return getattr(transformers, name).from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def special_tokens(stock: Any, tokenizer: Tokenizer) -> tuple[dict[str, str], list[str]]:
    """The special tokens by their part (pad_token, …) that tokenizer.json holds, and those that it does not hold."""
    declared = {name: str(token) for name in _TOKENS if (token := getattr(stock, name, None)) is not None}
    known = {name: token for name, token in declared.items() if tokenizer.token_to_id(token) is not None}
    return known, sorted({*declared.values()} - {*known.values()})


def merged_settings(base_folder: Path, base: Tokenizer) -> tuple[dict[str, Any], list[str]]:
    """tokenizer_config.json of the merge: the base's own, with what its tokenizer class supplies; and what is not kept, in words."""
    path = base_folder / SETTINGS
    config: dict[str, Any] = read_json(path) if path.is_file() else {}
    stock = open_stock(base_folder)
    known, lacking = special_tokens(stock, base)
    settings = {key: value for key, value in config.items() if key not in _TOKENS or key in known}
    settings |= {name: token for name, token in known.items() if settings.get(name) is None}
    settings |= {name: getattr(stock, name) for name in _SIDES if getattr(stock, name, None) is not None}
    extra = [str(token) for token in getattr(stock, "extra_special_tokens", None) or [] if base.token_to_id(str(token)) is not None]
    if extra and not any(settings.get(key) for key in ("extra_special_tokens", "additional_special_tokens")):
        settings["extra_special_tokens"] = extra
    if stock.model_max_length < _NO_LIMIT:
        settings.setdefault("model_max_length", stock.model_max_length)
    notes = [f"the special token {token!r} is in its settings, but not in its tokenizer.json, and is left out" for token in lacking]
    if stock(*_PAIR)["input_ids"] != base.encode(*_PAIR).ids:
        notes.append(f"its class {type(stock).__name__} reads text otherwise than its tokenizer.json, which is what was merged")
    if settings.get("auto_map") != _NO_CODE:  # the base may be a merged tokenizer, without the config.json that would tell
        settings.pop("auto_map", None)  # code of the base builds the base's tokenizer
    settings["tokenizer_class"] = _CLASS
    return (settings if _class_is_taken(base_folder, settings) else settings | {"auto_map": _NO_CODE}), notes


def _class_is_taken(base_folder: Path, settings: dict[str, Any]) -> bool:
    """Whether AutoTokenizer opens a model of the base's type with the class that the settings name."""
    import transformers

    with _model_folder(base_folder, base_folder) as folder:
        write_json(folder / SETTINGS, settings)
        try:
            return type(_open_as("AutoTokenizer", folder)) is getattr(transformers, _CLASS)
        except _REFUSALS:
            return False


@contextmanager
def _model_folder(folder: Path, base_folder: Path) -> Iterator[Path]:
    """A tokenizer in a folder of its own, beside the base's config.json if there is one, as it will lie in the folder of the model."""
    with tempfile.TemporaryDirectory() as place:
        for file in (*(folder / name for name in TOKENIZER_FILES), base_folder / _CONFIG):
            if file.is_file():
                shutil.copyfile(file, Path(place) / file.name)
        yield Path(place)


def prove_transformers_opens(folder: Path, merged: Tokenizer, base_folder: Path, base: Tokenizer, texts: list[str]) -> None:
    """AutoTokenizer reads the merged folder as tokenizers does, with the base's special tokens, input names, sides and pairs.

    It does so alone and beside the base's config.json, as in the folder of the model: the type of the model may decide on the class.
    Raises DataError naming the first that differs, or that AutoTokenizer cannot open it.
    """
    before = open_stock(base_folder)
    with _model_folder(folder, base_folder) as beside:
        for place in (folder, beside):
            try:
                stock = _open_as("AutoTokenizer", place)
            except _REFUSALS as error:
                raise DataError(f"merge: AutoTokenizer cannot open the merged tokenizer: {error}; please report the base") from error
            _prove_same(stock, merged, before, base, texts)


def _prove_same(stock: Any, merged: Tokenizer, before: Any, base: Tokenizer, texts: list[str]) -> None:
    for text in texts:
        if stock(text)["input_ids"] != merged.encode(text).ids:
            raise DataError(
                f"merge: AutoTokenizer reads the merged tokenizer otherwise than tokenizers does, for example {text[:60]!r} (it opens it "
                f"as {type(stock).__name__}); please report the base"
            )
    known, _ = special_tokens(before, base)
    ids = {name: base.token_to_id(token) for name, token in known.items()}
    pair = merged.encode(*_PAIR)
    inputs = {"input_ids": pair.ids, "token_type_ids": pair.type_ids, "attention_mask": pair.attention_mask}
    wanted = {
        "special tokens": (known, special_tokens(stock, merged)[0]),
        "ids of special tokens": (ids, {name: getattr(stock, f"{name}_id") for name in ids}),
        **{name: (getattr(before, name, None), getattr(stock, name, None)) for name in _SIDES},
        "pair of texts": ({name: inputs[name] for name in before.model_input_names if name in inputs}, dict(stock(*_PAIR))),
    }
    for what, (old, new) in wanted.items():
        if old != new:
            raise DataError(
                f"merge: AutoTokenizer's {what} of the merged tokenizer: {new}, but {old} with the base; please report the base"
            )
