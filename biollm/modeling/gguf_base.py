"""A base model in one GGUF file (the format of llama.cpp), as a normal Hugging Face folder.

What the way through transformers loses, and what is done about it:
- the model stays flagged as quantised, so that it can be neither trained nor saved: it is dequantised for good (GgufConfig);
- the pre-tokenizer. A GGUF file names it (`tokenizer.ggml.pre`), but transformers rebuilds every byte-level BPE with GPT-2's. For
  SmolLM2 that glues digits together, and changes the tokens of every number. It is built again from its name.
- it adds GPT-2's `<|endoftext|>` to tokenizers that have no such token, under an id that the model has no row for: it is taken out.

Weights are stored as float16, half the disk of float32. Its 11 bits move a dequantised matrix by 0.02 % (bfloat16: 0.14 %), where 4 bits
had moved it by some per cent. Perplexity of SmolLM2-135M on a paragraph: 16.314 in float32, 16.311 in float16, 16.280 in bfloat16.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from biollm.core.errors import ConfigError, ResourceError, first_line
from biollm.core.progress import quiet_libraries
from biollm.modeling.vocabulary import TOKENIZER
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

SUFFIX = ".gguf"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def is_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder that is a GGUF base: it holds one, and no config.json. None for any other folder.

    Raises ConfigError if there are several: they may be sizes of one model or parts of one, and only the user knows.
    """
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if not files or (folder / "config.json").is_file():
        return None
    if len(files) > 1:
        raise ConfigError(f"{folder}: holds {len(files)} GGUF files ({files[0].name}, …); put the one to use into a folder of its own")
    return files[0]


def gguf_to_folder(source: Path, out: Path) -> list[str]:
    """Write model and tokenizer of a GGUF file (or of a folder that holds one) into `out`; return notes for the user.

    `out` gets config.json, model.safetensors (float16; float32 if a weight is too large for it), tokenizer.json with the pre-tokenizer
    that the file names, tokenizer_config.json, and the chat template if there is one. Memory: the model in float32, twice.
    Raises ResourceError if the file or the package gguf is not there; ConfigError for a file that is damaged, of an architecture
    that transformers does not read from GGUF, that lacks tensors, or whose pre-tokenizer is not known here: nothing is written then.
    """
    file = is_gguf(source) if source.is_dir() else source
    if file is None or not file.is_file():
        raise ResourceError(f"{source}: no GGUF file here; expected a {SUFFIX} file, or a folder that holds one and no config.json")
    if importlib.util.find_spec("gguf") is None:
        raise ResourceError(f"{file}: reading GGUF needs the Python package gguf; install it with: pip install gguf")
    header = _read_header(file)
    tokenizer, backend, notes = _load_tokenizer(file, header)
    model, weight_notes = _load_model(file)
    rows, tokens = model.get_input_embeddings().weight.shape[0], backend.get_vocab_size()
    if tokens > rows:
        raise ConfigError(f"{file}: its tokenizer has {tokens} tokens, but its embedding table {rows} rows; fetch the file again")
    model.save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))
    backend.save(str(out / TOKENIZER))
    stored = ", ".join(f"{count} {name}" for name, count in sorted(header["tensor_types"].items()))
    return [f"{file.name}: {sum(header['tensor_types'].values())} tensors ({stored}) dequantised", *weight_notes, *notes]


def repair_pre_tokenizer(tokenizer: Tokenizer, name: str) -> str | None:
    """Give a byte-level BPE tokenizer the pre-tokenizer that a GGUF file names; returns what was repaired, None if nothing was lost.

    The names and what they split are llama.cpp's (src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_*).
    Raises ConfigError for a name that is not in the table below.
    """
    if name not in _PRE_TOKENIZERS:
        raise ConfigError(
            f"tokenizer.ggml.pre is '{name}', a pre-tokenizer that biollm cannot rebuild; expected one of "
            f"{', '.join(sorted(_PRE_TOKENIZERS))}: use the model's safetensors folder instead"
        )
    steps, what = _PRE_TOKENIZERS[name]
    before = tokenizer.to_str()
    tokenizer.pre_tokenizer = steps()
    if name in _LLAMA_3:
        tokenizer.model.ignore_merges = True  # a word that is a token is taken whole
    if name in _QWEN_2:
        tokenizer.normalizer = normalizers.NFC()
    return None if json.loads(tokenizer.to_str()) == json.loads(before) else what


def _byte_level() -> Any:
    """The words of GPT-2, then bytes."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])


def _split_by(pattern: str) -> Any:
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_only])


def _three_digits() -> Any:
    return _split_by(rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}")


def _one_digit() -> Any:
    return _split_by(rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}")


_LLAMA_3 = ("llama-bpe", "llama3", "llama-v3")
_QWEN_2 = ("qwen2",)
_PRE_TOKENIZERS = {
    **dict.fromkeys(("gpt-2", "mpt", "olmo"), (_byte_level, "the split into GPT-2's words")),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), (_digits, "the split of numbers into single digits")),
    **dict.fromkeys(_LLAMA_3, (_three_digits, "the split of numbers into groups of three digits, and Llama 3's words")),
    **dict.fromkeys(_QWEN_2, (_one_digit, "the split of numbers into single digits, and Qwen2's words")),
}


def _read_header(file: Path) -> dict[str, Any]:
    """What the file says of its tokenizer and its tensors."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
        names = ("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre")
        values: dict[str, Any] = {name: field.contents() for name in names if (field := reader.get_field(name)) is not None}
        tokens = reader.get_field("tokenizer.ggml.tokens")
    except (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a whole GGUF file ({first_line(error)}); fetch it again") from error
    if not types or "tokenizer.ggml.model" not in values or tokens is None:
        raise ConfigError(f"{file}: holds {'no tokenizer' if types else 'no tensors'}; expected a whole model: fetch another file")
    return {**values, "tensor_types": dict(types), "tokens": len(tokens.data)}


def _load_tokenizer(file: Path, header: dict[str, Any]) -> tuple[Any, Tokenizer, list[str]]:
    """transformers' tokenizer, which knows the settings; the repaired one under it, which goes into tokenizer.json; and notes."""
    kind, name = header["tokenizer.ggml.model"], header.get("tokenizer.ggml.pre")
    if kind == "gpt2" and name is None:
        raise ConfigError(f"{file}: names no pre-tokenizer (tokenizer.ggml.pre), so that its words are not known; fetch a newer file")
    tokenizer = _from_pretrained("AutoTokenizer", file)
    backend, invented = _without_invented(tokenizer.backend_tokenizer, header["tokens"])
    for role, token in tokenizer.special_tokens_map.items():
        if token in invented:
            setattr(tokenizer, role, None)
    notes = [f"{TOKENIZER}: took out {', '.join(invented)}, which transformers adds and the file has not"] if invented else []
    if kind != "gpt2":
        return tokenizer, backend, [*notes, f"{TOKENIZER}: of kind '{kind}', as transformers rebuilds it; not checked against the original"]
    try:
        repaired = repair_pre_tokenizer(backend, str(name))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    if repaired is None:
        return tokenizer, backend, [*notes, f"{TOKENIZER}: pre-tokenizer '{name}', as the file names it"]
    return tokenizer, backend, [*notes, f"{TOKENIZER}: repaired: transformers had lost {repaired} (pre-tokenizer '{name}')"]


def _without_invented(tokenizer: Tokenizer, tokens: int) -> tuple[Tokenizer, list[str]]:
    """The tokenizer without added tokens behind the file's last one, and what these were."""
    values = json.loads(tokenizer.to_str())
    invented = [added["content"] for added in values["added_tokens"] if added["id"] >= tokens]
    values["added_tokens"] = [added for added in values["added_tokens"] if added["id"] < tokens]
    return Tokenizer.from_str(json.dumps(values)), invented


def _load_model(file: Path) -> tuple[Any, list[str]]:
    """The dequantised model in the number format to store, and notes on what that changes."""
    import torch
    from transformers import GgufConfig

    options = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32, "output_loading_info": True}
    model, info = _from_pretrained("AutoModelForCausalLM", file, **options)
    if lacking := sorted(info["missing_keys"]):
        raise ConfigError(f"{file}: lacks {len(lacking)} tensors of its architecture, such as {lacking[0]}; fetch the file again")
    moved = 0.0
    for parameter in model.parameters():
        exact = parameter.detach()
        rounded = exact.half().float()
        if not torch.isfinite(rounded).all():
            return model, ["model.safetensors: stored as float32: a weight is too large for float16"]
        moved = max(moved, float((rounded - exact).norm() / exact.norm().clamp_min(1e-30)))
    return model.half(), [f"model.safetensors: stored as float16, which moves no tensor by more than {moved:.2%}"]


def _from_pretrained(kind: str, file: Path, **options: Any) -> Any:
    import torch
    import transformers

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers looks for DeepSpeed, which warns unless told
    quiet_libraries()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        return getattr(transformers, kind).from_pretrained(
            str(file.parent), gguf_file=file.name, local_files_only=True, trust_remote_code=False, **options
        )
    except Exception as error:  # the tokenizers library raises nothing more special
        message = first_line(error)
        raise ConfigError(
            f"{file}: transformers cannot load it as {kind}: {message}; use the model's safetensors folder instead"
        ) from error
